"""Give labelers new work to rank: outputs of the champion or, while there is none, of the SFT policy.

Called by the flow `feedback` in a folder in which the stages up to `sft` ran. Each round has a queue of its
own, so that one that is killed and run again adds nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flows.label import GUIDELINE
from labeling.candidates import Candidate
from labeling.items import Filling, add_items
from labeling.projects import add_guideline, add_project, project_id
from labeling.queues import add_queue, queue_row
from labeling.schema import items, projects
from labeling.schema import queues as all_queues
from labeling.store import Store
from rlhf.data.contracts import DEMONSTRATION
from rlhf.data.errors import DataError
from rlhf.data.table import read_table
from rlhf.settings import Settings
from tasks.collect import candidates
from tasks.runtime.registry import find_champion, policy_folder

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

WHO = "flow feedback"


def queue_of_round(number: int) -> str:
    """The name of the queue whose labels round `number` waits for."""
    return f"round {number}"


def find_queue(store: Store, project: str, number: int) -> int | None:
    """The id of a round's queue; None before it is filled."""
    name = queue_of_round(number)
    chosen = sa.select(all_queues.c.id).join(projects)
    with store.read() as tx:
        return tx.scalar(chosen.where(projects.c.name == project, all_queues.c.name == name))


def refill(store: Store, settings: Settings, folder: Path, number: int, prompts: int) -> int:
    """Fill the queue of a round with candidates on training prompts that nobody has been asked about, and a
    tenth as many validation prompts for the reward model's accuracy; returns how many items are new, 0 where
    no prompt is left or no two outputs differ.

    Args:
        store: the label store; a project that it lacks is made, with the guideline of the built-in task.
        settings: `collect` says how many candidates an item has and what share several labelers rank.
        folder: where the stages up to `sft` ran.
        number: the round's number.
        prompts: how many training prompts.

    Raises:
        DataError: the champion's files are missing.
    """
    project = settings.collect.labels.project
    with store.read() as tx:
        chosen = sa.select(items.c.prompt).join_from(items, all_queues).join(projects)
        chosen = chosen.where(projects.c.name == project)
        asked = set(tx.scalars(chosen))
    with chdir(folder):
        rows = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
        new = {row["prompt"]: row for row in rows if row["prompt"] not in asked}
        posts = [row for row in new.values() if row["split"] == "train"][:prompts]
        if not posts:
            return 0
        posts += [row for row in new.values() if row["split"] == "validation"][: max(1, prompts // 10)]
        policy, name = served(settings)
        texts_of_posts = candidates(policy, posts, settings)
    ranked = [
        Candidate(
            post["prompt"],
            tuple(_shown(text, post) for text in texts),
            ("reference", *[name] * (len(texts) - 1)),
            _shown(post["completion"], post),
            post["split"],
            post["source"],
            messages=post["messages"],
        )
        for post, texts in zip(posts, texts_of_posts, strict=True)
        if len(texts) > 1
    ]
    if not ranked:  # the policy answers every prompt as the reference does, and a round may end so
        return 0
    filling = Filling(
        shared=settings.collect.shared, shared_overlap=settings.collect.overlap, seed=settings.seed
    )
    with store.write() as tx:
        if tx.scalar(sa.select(projects.c.id).where(projects.c.name == project)) is None:
            add_guideline(tx, add_project(tx, project, WHO), GUIDELINE, WHO)
        queue = queue_of_round(number)
        add_queue(tx, project_id(tx, project), queue, "rank", WHO)
        return add_items(tx, queue_row(tx, project, queue), ranked, filling, WHO)


def _shown(text: str, post: Mapping[str, Any]) -> str:
    """An output as the store has it: that of a conversation is the next turn's content as it is."""
    return text if post["messages"] else text.strip()


def served(settings: Settings) -> tuple[Path, str]:
    """Folder and name of the policy whose outputs are to be ranked: @champion, else the SFT policy here."""
    version = champion(settings.register_.model_name)
    if version is None:
        return Path("models/sft"), "sft"
    folder = policy_folder(version)
    if folder is None:
        raise DataError(f"the files of {version.name} version {version.version}, @champion, are missing")
    return folder, f"{version.name}/{version.version}"


def champion(name: str) -> ModelVersion | None:
    """The @champion of a registered model; None where there is no such model or alias."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return find_champion(MlflowClient(), name)
    except MlflowException:
        return None
