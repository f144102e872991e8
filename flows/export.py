"""Write a policy as a plain Hugging Face folder, and prove that transformers alone answers with it as we do.

    make export TO=FOLDER                                the registry's models:/rlhf-policy@champion
    make export MODEL=models:/rlhf-policy/3 TO=FOLDER
    python -m flows.export my-run FOLDER                 the policy of a run

The folder has safetensors, config, tokenizer, chat template and a generation config that stops where training
did and samples as the evaluation did, and a model card that says what the policy was made from. A fresh
process in which this project cannot be imported loads it and answers several prompts greedily; unless its
token ids are ours, the export fails and leaves nothing behind.

LoRA adapters are merged into the weights, in float32. --adapters keeps them apart, as `peft` does, with the
weights of their base beside them, so that the folder still loads by itself.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import io
import os
from pathlib import Path

from flows.policies import MODEL_HELP, NamedPolicy, named_policy
from flows.serve import CHAMPION
from flows.services.processes import running_environment
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside
from tasks.runtime.errors import one_line_errors
from tasks.runtime.tracking import connect

PROMPTS = Path("data/prepared/prompts.parquet")
ASKED = 5  # prompts of the run's own, besides ours, in the proof


def export(named: NamedPolicy, folder: Path, adapters: bool = False) -> list[str]:
    """Write a policy to a folder that does not exist yet or is empty.

    Args:
        adapters: keep LoRA adapters apart from the weights of their base.

    Returns:
        what was proved of it, a line each.

    Raises:
        DataError: the folder holds something, or the policy cannot be loaded.
        StageError: the written folder does not answer as the policy does; it is removed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already and not empty; name another folder, or remove it first")
    from transformers.utils.logging import disable_progress_bar

    from flows.exported import Sampling, merging, prove, write_folder
    from flows.model_card import base_on_the_hub, model_card
    from rlhf.models.policy import load_policy, without_adapters
    from rlhf.models.template import Chat

    disable_progress_bar()
    policy = load_policy(named.folder)
    if adapters and policy.adapters is None:
        where = (
            "; a registered version has them merged, so name the run that made it" if named.version else ""
        )
        raise DataError(f"{named.name} has no adapters to keep apart{where}")
    sampling = Sampling(named.temperature, named.longest)
    rows = own_prompts(named)
    whole = policy if adapters else without_adapters(policy)
    with written_beside(folder) as beside:
        write_folder(whole, sampling, beside, base_on_the_hub(named))
        proof = prove(whole, sampling, beside, rows)
        if whole is not policy:
            proof.append(merging(policy, whole, sampling, rows))
        elif adapters:
            proof.append("LoRA adapters are apart from the weights of their base, which are beside them")
        card = model_card(named, sampling, proof, isinstance(policy.template, Chat))
        (beside / "README.md").write_text(card, encoding="utf-8")
    return proof


def own_prompts(named: NamedPolicy) -> list[dict[str, object]]:
    """A few held-out prompts of the run, with messages where they have some; none where they are gone."""
    import pyarrow.parquet as pq

    content = named.file(str(PROMPTS))
    if not content:
        return []
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    held_out = [row for row in rows if row.get("split") == "test"] or rows
    return [{"prompt": row["prompt"], "messages": row.get("messages")} for row in held_out[:ASKED]]


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line where a policy cannot be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}, such as {CHAMPION}")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to; it must not exist or be empty")
    parser.add_argument("--adapters", action="store_true", help="keep LoRA adapters apart from the weights")
    options = parser.parse_args(arguments)
    with one_line_errors():
        for name, value in running_environment().items():
            os.environ.setdefault(name, value)
        if options.model.startswith("models:/"):
            connect()
        with named_policy(options.model) as named:
            proof = export(named, options.folder, options.adapters)
        print(f"{options.folder}: {named.name} as a Hugging Face folder")
        for line in proof:
            print(f"  {line}")


if __name__ == "__main__":
    main()
