"""Answer prompts greedily with an exported folder, by transformers alone: this project is not importable.

    python -I -S flows/export_check.py QUESTIONS

QUESTIONS is a JSON file: `paths` (where packages are), `folder`, `longest` (tokens of an answer), and
`questions`, each with `messages` or, where they are null, `prompt`. Prints JSON: what the folder says of
itself and, for each question, the ids that its tokenizer makes of the prompt and the ids of the answer.
"""

import json
import sys
from typing import Any


def main() -> None:
    """Read the questions, answer them with nothing of this project importable, print what came out."""
    with open(sys.argv[1], encoding="utf-8") as file:
        asked = json.load(file)
    sys.path[1:] = asked["paths"]  # without the working directory; and what installs in them do not run
    for ours in ("rlhf", "tasks", "flows", "labeling"):
        sys.modules[ours] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        import rlhf  # noqa: F401
    except ImportError:
        pass
    else:
        raise SystemExit("rlhf can be imported, so nothing would be proved")
    print(json.dumps(answers(asked)))


def answers(asked: dict[str, Any]) -> dict[str, Any]:
    """What the folder says of itself, and what it answers; see above."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asked["folder"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()
    prompts, texts = [], []
    for question in asked["questions"]:
        if question["messages"] is None:
            inputs = tokenizer(question["prompt"], return_tensors="pt")
        else:
            inputs = tokenizer.apply_chat_template(
                question["messages"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            out = model.generate(**inputs, do_sample=False, max_new_tokens=asked["longest"])[0].tolist()
        prompts.append(inputs["input_ids"][0].tolist())
        texts.append(out[len(prompts[-1]) :])
    sampling = model.generation_config
    names = ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "pad_token_id")
    return {
        "transformers": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "padding_side": tokenizer.padding_side,
        "pad": tokenizer.pad_token_id,
        "eos": tokenizer.eos_token_id,
        "rows": model.get_input_embeddings().weight.shape[0],
        "stops": sampling.eos_token_id,
        "sampling": {name: getattr(sampling, name) for name in names},
        "prompts": prompts,
        "answers": texts,
    }


if __name__ == "__main__":
    main()
