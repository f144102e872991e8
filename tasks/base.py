"""The base model: trained here from scratch, or brought in from the Hub or a folder (base.type).

    python -m tasks.base

Reads data/prepared; writes models/pretrained, metrics/base.json, plots/base.csv.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

from pathlib import Path
from typing import Any

from rlhf.compute import deterministic
from rlhf.data.base_files import local_folder, refuse_other_content
from rlhf.data.columns import values_of
from rlhf.data.contracts import CORPUS, DEMONSTRATION
from rlhf.data.files import write_json
from rlhf.data.table import read_table
from rlhf.models.base import Base, load_base, loaded_dtype, read_text, save_base
from rlhf.models.base_checks import (
    check_options,
    gigabytes,
    known_config,
    memory_needed,
    refuse_no_disk,
    refuse_no_memory,
    try_miniature,
)
from rlhf.models.base_source import fetch, find, hub_cache
from rlhf.models.policy import Policy, save_model
from rlhf.models.scratch import new_model, tokenizer_texts, train_tokenizer
from rlhf.models.settled import four_bits
from rlhf.settings import Pretrained, Scratch
from rlhf.training.curves import final_loss, write_curve
from rlhf.training.pretrain import pretrain
from tasks.runtime.errors import printable
from tasks.runtime.places import main_checkout
from tasks.runtime.stage import Stage, run

MODEL = "models/pretrained"


def main(stage: Stage) -> dict[str, float | None]:
    deterministic(stage.settings.seed, stage.settings.threads)
    base = stage.settings.base
    told = bring(stage, base) if isinstance(base, Pretrained) else train(stage, base)
    write_json("metrics/base.json", told)
    if isinstance(base, Pretrained):
        stage.log_artifact("metrics/base.json")
    return {name: value for name, value in told.items() if value is None or isinstance(value, int | float)}


def train(stage: Stage, base: Scratch) -> dict[str, Any]:
    """Train a tokenizer and a model on the corpus."""
    corpus = read_table("data/prepared/corpus.parquet", CORPUS)
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    stage.log_dataset("data/prepared/corpus.parquet", corpus, "pretraining")

    seen = tokenizer_texts(corpus, demonstrations)
    tokenizer = train_tokenizer(seen, base.tokenizer, base.vocab_size, chatml=base.template == "chatml")
    policy = Policy(new_model(base.scale, tokenizer, base.context), tokenizer)
    curve = pretrain(
        policy,
        (text for batch in corpus.batches(["text"]) for text in values_of(batch.column("text"))),
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
    save_model(policy, MODEL)
    write_curve("plots/base.csv", curve)
    return {
        "parameters": float(policy.model.num_parameters()),
        "vocabulary": float(len(tokenizer)),
        "loss": final_loss(curve),
    }


def bring(stage: Stage, base: Pretrained) -> dict[str, Any]:
    """Bring in a model that was trained elsewhere; writes a curve without points, for there is no training.

    Raises:
        DataError: it cannot be reached, used or held here, which is said before its weights are fetched
            wherever its config and the headers of its weights show it.
    """
    name, settled = base.path, brought(base)
    told = save_base(settled, MODEL)
    for change in told["changes"]:
        print(f"{name}: {printable(change)}", flush=True)
    write_curve("plots/base.csv", [])
    stage.record["changes"] = told["changes"]
    stage.log_tags({"base": name, "base_revision": base.revision or "", "base_hash": told["hash"]})
    return told


def brought(base: Pretrained) -> Base:
    """The model that `base` names, fetched and settled; nothing is written but the Hub's cache.

    Raises:
        DataError: see `bring`.
    """
    name, lora = base.path, base.lora
    refuse_other_content(base)
    source = find(name, base.revision, local_folder(base))
    config = known_config(source)
    check_options(
        name,
        config,
        context=base.context,
        attention=base.attention,
        checkpointing=base.gradient_checkpointing,
    )
    try_miniature(name, config)
    if base.quantization != "none":
        four_bits()  # there has to be a GPU, and a package
    text = read_text(source, base.template, base.template_arguments)
    dtype = loaded_dtype(source, base.dtype, lora is not None)
    needed = memory_needed(config, dtype, lora.model_dump() if lora else None, base.quantization)
    if warning := refuse_no_memory(name, needed, lora is not None):
        print(f"warning: {warning}", flush=True)
    places = {"models/pretrained": Path(MODEL), "DVC's cache": main_checkout() / ".dvc/cache"}
    copies = [(what, place, source.bytes) for what, place in places.items()]
    refuse_no_disk(name, [("the download", hub_cache(), source.missing), *copies])
    if source.missing:
        print(f"{name}: fetching {gigabytes(source.missing)} to {hub_cache()}", flush=True)
    return load_base(
        fetch(source),
        text,
        dtype=dtype,
        context=base.context,
        attention=base.attention,
        quantization=base.quantization,
    )


if __name__ == "__main__":
    run("base", main)
