"""The base model: trained here from scratch, or brought in from the Hub or a folder (base.type).

    python -m tasks.base

Reads data/prepared; writes models/pretrained, metrics/base.json, plots/base.csv.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from rlhf.compute import deterministic
from rlhf.data.base_files import refuse_other_content
from rlhf.data.contracts import CORPUS, DEMONSTRATION
from rlhf.data.files import write_json
from rlhf.data.table import read_table
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import new_model, tokenizer_texts, train_tokenizer
from rlhf.settings import Pretrained, Scratch
from rlhf.training.curves import final_loss, write_curve
from rlhf.training.pretrain import pretrain
from tasks.runtime.errors import StageError
from tasks.runtime.stage import Stage, run


def main(stage: Stage) -> dict[str, float | None]:
    deterministic(stage.settings.seed, stage.settings.threads)
    base = stage.settings.base
    figures = bring(stage, base) if isinstance(base, Pretrained) else train(stage, base)
    write_json("metrics/base.json", figures)
    return figures


def train(stage: Stage, base: Scratch) -> dict[str, float | None]:
    """Train a tokenizer and a model on the corpus."""
    corpus = read_table("data/prepared/corpus.parquet", CORPUS)
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    stage.log_dataset("data/prepared/corpus.parquet", corpus, "pretraining")

    seen = tokenizer_texts(corpus, demonstrations)
    tokenizer = train_tokenizer(seen, base.tokenizer, base.vocab_size, chatml=base.template == "chatml")
    policy = Policy(new_model(base.scale, tokenizer, base.context), tokenizer)
    curve = pretrain(
        policy,
        [row["text"] for row in corpus],
        checkpoints=stage.checkpoints,
        seed=stage.settings.seed,
        curve=stage.log_curve,
        progress=stage.progress,
        steps=base.steps,
        batch_size=base.batch_size,
        learning_rate=base.learning_rate,
        muon_learning_rate=base.muon_learning_rate,
        save_every=base.save_every,
    )
    save_model(policy, "models/pretrained")
    write_curve("plots/base.csv", curve)
    return {
        "parameters": float(policy.model.num_parameters()),
        "vocabulary": float(len(tokenizer)),
        "loss": final_loss(curve),
    }


def bring(stage: Stage, base: Pretrained) -> dict[str, float | None]:
    """Bring in a model that was trained elsewhere; writes a curve without points, for there is no training.

    Raises:
        DataError: what `base` names on this machine is not there, or has other content than base.sha256 says.
        StageError: it cannot be done.
    """
    refuse_other_content(base)
    raise StageError(f"{base.path}: no pretrained base can be brought in yet; set base.type to scratch")


if __name__ == "__main__":
    run("base", main)
