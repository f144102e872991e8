"""Train a tokenizer and a base model on the corpus.

    python -m tasks.pretrain

Reads data/prepared; writes models/pretrained, metrics/pretrain.json, plots/pretrain.csv.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from rlhf.compute import deterministic
from rlhf.data.contracts import CORPUS, DEMONSTRATION
from rlhf.data.files import write_json
from rlhf.data.table import read_table
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import new_model, tokenizer_texts, train_tokenizer
from rlhf.training.curves import final_loss, write_curve
from rlhf.training.pretrain import pretrain
from tasks.runtime.stage import Stage, run


def main(stage: Stage) -> dict[str, float | None]:
    settings, params = stage.settings, stage.settings.pretrain
    deterministic(settings.seed, settings.threads)
    corpus = read_table("data/prepared/corpus.parquet", CORPUS)
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    stage.log_dataset("data/prepared/corpus.parquet", corpus, "pretraining")

    texts = [row["text"] for row in corpus]
    seen = tokenizer_texts(corpus, demonstrations)
    tokenizer = train_tokenizer(seen, settings.model.tokenizer, settings.model.vocab_size)
    policy = Policy(new_model(settings.model.scale, tokenizer, settings.model.context), tokenizer)
    curve = pretrain(
        policy,
        texts,
        checkpoints=stage.checkpoints,
        seed=settings.seed,
        curve=stage.log_curve,
        progress=stage.progress,
        **params.model_dump(),
    )

    figures = {
        "parameters": float(policy.model.num_parameters()),
        "vocabulary": float(len(tokenizer)),
        "loss": final_loss(curve),
    }
    save_model(policy, "models/pretrained")
    write_curve("plots/pretrain.csv", curve)
    write_json("metrics/pretrain.json", figures)
    return figures


if __name__ == "__main__":
    run("pretrain", main)
