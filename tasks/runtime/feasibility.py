"""What the data cannot do for the parameters, known before anything trains: too long, too few, only ties."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from rlhf.data.conversations import transcript
from rlhf.data.plural import plural
from rlhf.settings import Scratch, Settings
from tasks.runtime.preflight import WITHOUT_DEMONSTRATIONS, Problem

if TYPE_CHECKING:
    from rlhf.models.template import Template

WORDS = r"[\w']+|[^\w']"  # finds at least as many tokens as a tokenizer of words, in Python and in Arrow
_FEW = 10_000  # with more prompts a tie in place of a win never narrows the interval enough to matter
Rows = Sequence[dict[str, Any]]


def too_long(
    settings: Settings,
    prompts: Sequence[str],
    context: int | None,
    count: Callable[[], Sequence[int]],
    every: int | None = None,
) -> Problem | None:
    """Prompts that the context cannot hold beside a response and that ppo.max_prompt_length does not cut.

    Args:
        settings: every parameter.
        prompts: of all splits.
        context: most tokens of a sequence; None where nobody knows them yet.
        count: how many tokens each prompt has, or has at least; asked only where it may matter.
        every: how many prompts there are, where those that surely fit were left out.
    """
    length = max(settings.ppo.response_length, settings.evaluate.response_length)
    longest = settings.ppo.max_prompt_length or math.inf
    if context is None:
        return None
    room = context - length
    if room < 1 or longest <= room:
        return None
    base = settings.base
    if (
        isinstance(base, Scratch)
        and base.template == "plain"
        and all(most_tokens(base.tokenizer, prompt) <= room for prompt in prompts)
    ):
        return None
    counts = [min(tokens, longest) for tokens in count()]
    over = [number for number, tokens in enumerate(counts) if tokens > room]
    if not over:
        return None
    worst = max(over, key=counts.__getitem__)
    return Problem(
        "ppo",
        f"{len(over)} of {every or len(prompts)} prompts are too long: base.context {context} leaves "
        f"{room} tokens beside a response of {length}, and {ascii(prompts[worst])[:40]} has "
        f"{counts[worst]:.0f}; set ppo.max_prompt_length to {room} to cut their start, raise base.context, "
        "or shorten them",
    )


def by_form(settings: Settings, tables: Mapping[str, Rows], has_template: bool = True) -> tuple[Rows, Rows]:
    """The prompts that the base reads as text, each once, and the rows that it reads as turns.

    Args:
        settings: every parameter.
        tables: prompts and demonstrations.
        has_template: whether the tokenizer of the base has a chat template, where that is known.
    """
    turns = has_template and settings.base.template != "plain"
    rows = [row for name in ("prompts", "demonstrations") for row in tables[name] if row["prompt"]]
    talks = [row for row in rows if row["messages"] and turns]
    asked = {row["prompt"] for row in talks}
    texts = {row["prompt"]: row for row in tables["prompts"] if row["prompt"] and row["prompt"] not in asked}
    return list(texts.values()), talks


def conversations_too_long(
    settings: Settings,
    rows: Rows,
    context: int | None,
    count: Callable[[], Sequence[tuple[int, int]]],
    every: int | None = None,
) -> Problem | None:
    """Conversations that the context, or ppo.max_prompt_length, cannot hold beside their answer. They are
    never cut, because a cut would take the beginning of a turn.

    Args:
        settings: every parameter.
        rows: with `messages`, and with `completion` where one is known.
        context: most tokens of a sequence; None where nobody knows them yet.
        count: how many tokens each conversation and its completion have, or have at least; asked only where
            it may matter.
        every: how many conversations there are, where those that surely fit were left out.
    """
    length = max(settings.ppo.response_length, settings.evaluate.response_length)
    base, longest = settings.base, settings.ppo.max_prompt_length or math.inf
    if context is None or not rows:
        return None

    def over(counts: Sequence[tuple[int, int]]) -> list[int]:
        return [
            number
            for number, (prompt, answer) in enumerate(counts)
            if prompt > longest or prompt + max(answer, length) > context
        ]

    if isinstance(base, Scratch) and not over([_most_turns(base.tokenizer, row) for row in rows]):
        return None
    counts = count()
    worst = max(over(counts), key=lambda number: sum(counts[number]), default=None)
    if worst is None:
        return None
    prompt, answer = counts[worst]
    if prompt > longest:
        limit = f"ppo.max_prompt_length is {longest}; raise it, or shorten them"
    elif base.context is None:
        limit = f"the model reaches {context}; shorten them, or leave them out"
    else:
        limit = f"base.context is {context}; raise it, or shorten them"
    return Problem(
        "sft",
        f"{len(over(counts))} of {every or len(rows)} conversations are too long, and none is cut: "
        f"{ascii(rows[worst]['prompt'])[:40]} has {prompt} tokens, its answer up to {max(answer, length)}, "
        f"and {limit}",
    )


def turn_counts(template: Template, rows: Rows) -> list[tuple[int, int]]:
    """The tokens of each conversation, and of its completion, 0 where there is none."""
    answered = [row for row in rows if row.get("completion")]
    answers = iter(template.answers(answered, [row["completion"] for row in answered]))
    return [
        (len(ids), len(next(answers)) if row.get("completion") else 0)
        for row, ids in zip(rows, template.prompts(rows), strict=True)
    ]


def without_cue(
    settings: Settings, demonstrations: Iterable[Mapping[str, Any]], has_template: bool = True
) -> Problem | None:
    """Conversations that the base would read as plain text: their transcript ends with what was asked, and
    nothing says that an answer begins.

    Args:
        settings: every parameter.
        demonstrations: of all splits.
        has_template: whether the tokenizer of the base has a chat template, where that is known.
    """
    base = settings.base
    if base.template != "plain" and has_template:
        return None
    talks = [row for row in demonstrations if row["messages"]]
    bare = sum(row["prompt"].strip() == transcript(row["messages"]).strip() for row in talks)
    if not bare:
        return None
    return Problem(
        "sft",
        f"{plural(bare, 'demonstration')} in turns, and "
        + (
            f"base.template is plain: set it to {'chatml' if isinstance(base, Scratch) else 'auto'}"
            if base.template == "plain"
            else "the tokenizer of the base has no chat template: set base.template to a file with one"
        )
        + ", or give them a prompt text that ends with a cue for the answer",
    )


def _most_turns(kind: str, row: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens that a conversation in ChatML and its completion cannot exceed."""
    turns = [f"{turn['role']}\n{turn['content']}\n" for turn in row["messages"]]
    prompt = sum(most_tokens(kind, text) + 2 for text in [*turns, "assistant\n"])  # and the two markers
    return prompt, most_tokens(kind, row.get("completion") or "") + 1


def most_tokens(kind: str, text: str) -> int:
    """Tokens that a text cannot exceed, whatever its tokenizer has learnt; counted without loading one.

    Args:
        kind: `word`, whose tokens are signs and whole words; `bpe`, whose tokens are a byte or more.
        text: any text.
    """
    return len(re.findall(WORDS, text)) if kind == "word" else len(text.encode())


@dataclass(frozen=True)
class Counts:
    """Rows by split.

    Attributes:
        demonstrations, comparisons, votes: of these tables.
        rankings: the comparisons that prefer a completion to another.
        up: the votes that are thumbs up.
        labelers: how many people ranked, over all splits; those without a name are one.
    """

    demonstrations: Mapping[str, int]
    comparisons: Mapping[str, int]
    rankings: Mapping[str, int]
    votes: Mapping[str, int]
    up: Mapping[str, int]
    labelers: int


def counts_of(tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> Counts:
    """The counts of tables with their splits; votes may be missing."""
    splits = {
        name: Counter(row["split"] for row in tables.get(name, ()))
        for name in ("demonstrations", "comparisons", "votes")
    }
    rankings = Counter(
        row["split"] for row in tables["comparisons"] if len(set(row["ranking"] or ()) - {None}) > 1
    )
    up = Counter(row["split"] for row in tables.get("votes", ()) if row.get("label"))
    labelers = len({row.get("labeler_id") for row in tables["comparisons"]})
    return Counts(splits["demonstrations"], splits["comparisons"], rankings, splits["votes"], up, labelers)


def problems_of_data(settings: Settings, counts: Counts, collected: bool = False) -> list[Problem]:
    """What the rows that `prepare` makes cannot do for these parameters, in the order of the stages.

    Args:
        settings: every parameter.
        counts: of the rows.
        collected: whether the comparisons are all there will be, whoever gave them.
    """
    demonstrations, comparisons, votes = counts.demonstrations, counts.comparisons, counts.votes
    rankings, ppo = counts.rankings, settings.ppo
    ranked = collected or settings.collect.labelers == "given"
    # The rows whose split `judge` a judge learns from.
    judging = comparisons.get("judge", 0) + votes.get("judge", 0) if ranked else demonstrations.get("judge")
    asks = bool(ppo.snapshot_every) and ppo.judge_tolerance is not None
    told = any(demonstrations.values())
    empty = [split for split in ("train", "validation", "test") if not demonstrations.get(split)]
    every = sum(comparisons.values())
    ties = every - sum(rankings.values())
    lacks = [] if demonstrations.get("judge") else ["no demonstrations"]
    unranked = not rankings.get("judge") and not votes.get("judge")
    lacks += ["no rankings with a preference"] if ranked and unranked else []
    return [
        Problem(stage, text)
        for stage, text, holds in (
            (
                "validate",
                "collect.labelers is given, and the data has no comparisons and no votes: add some, or set "
                "it to store where people label",
                ranked and not every and not any(votes.values()),
            ),
            (
                "validate",
                f"there are no demonstrations in split {' and '.join(empty)}: give rows a split, raise "
                "prepare.test_share and prepare.validation_share, or bring more rows",
                told and bool(empty),
            ),
            (
                "reward",
                f"no ranking in split train prefers one text to another, {ties} of all {every} "
                "rankings are ties: the reward model would learn nothing; bring rankings with a preference",
                ranked and bool(every) and not rankings.get("train") and not votes.get("train"),
            ),
            (
                "reward",
                f"all {votes.get('train', 0)} votes of split train are thumbs "
                f"{'up' if counts.up.get('train') else 'down'}, and no ranking there has a preference: the "
                "reward model would score all texts alike; bring votes of both kinds, or rankings",
                bool(votes.get("train"))
                and not rankings.get("train")
                and counts.up.get("train", 0) in (0, votes["train"]),
            ),
            (
                "reward",
                f"reward.labeler_weights is {settings.reward.labeler_weights}, which tells people apart by "
                "what several of them ranked, and all rankings are of one: set it to none",
                ranked and every > 0 and counts.labelers < 2 and settings.reward.labeler_weights != "none",
            ),
            (
                "ppo",
                WITHOUT_DEMONSTRATIONS,
                not told,
            ),
            (
                "ppo",
                "the early-stopping judge of PPO needs two prompts in split validation, there are "
                f"{demonstrations.get('validation', 0)}: raise prepare.validation_share, or set "
                "ppo.judge_tolerance to null to train without it",
                asks
                and told
                and (ppo.judge == "simulated" or bool(judging))
                and demonstrations.get("validation", 0) < 2,
            ),
            (
                "evaluate",
                f"evaluate.judges has reward-model, and split judge has {' and '.join(lacks)} to learn from: "
                "raise prepare.judge_share or bring more rows",
                told and "reward-model" in settings.evaluate.judges and bool(lacks),
            ),
        )
        if holds
    ]


def gate_warning(settings: Settings, prompts: int) -> str | None:
    """A line where the gate can never let a policy through, however good, for want of judged prompts.

    Args:
        settings: every parameter.
        prompts: held-out prompts that have a reference.
    """
    judged, needed = min(prompts, settings.evaluate.prompts), needed_prompts(settings)
    register = settings.register_
    if needed is None:
        return f"no policy can be promoted: no interval lies above register.min_rate {register.min_rate:g}"
    if judged >= needed:
        return None
    capped = prompts > settings.evaluate.prompts
    mend = "raise evaluate.prompts" if capped and prompts >= needed else "bring more held-out prompts"
    return (
        f"no policy of this run can be promoted: the evaluation judges {judged} prompts, the gate needs "
        f"{needed} (register.min_prompts {register.min_prompts}, min_decided {register.min_decided}, "
        f"min_rate {register.min_rate:g}); {mend}, or lower what the gate asks for"
    )


def needed_prompts(settings: Settings) -> int | None:
    """The fewest judged prompts on which the gate can pass; None where no number is enough.

    They are at least `register.min_prompts` and `register.min_decided`, and enough for the lower end of
    Wilson's interval to lie above `register.min_rate`.
    """
    register, confidence = settings.register_, settings.evaluate.confidence
    rate, least = register.min_rate, max(register.min_prompts, register.min_decided)
    if rate >= 1:
        return None
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    needed = math.floor(rate * z2 / (1 - rate)) + 1  # the lower end of n wins is n / (n + z^2)
    # With a tie or two, fewer prompts may do.
    while least < needed <= _FEW and best_lower_end(needed - 1, confidence) > rate:
        needed -= 1
    return max(least, needed)


def best_lower_end(n: int, confidence: float) -> float:
    """The highest lower end of the interval of a rate that n judged prompts can give.

    It comes from wins alone or from wins and very few ties: a tie varies less than a coin toss, so that with
    few prompts it may narrow the interval by more than it costs.
    """
    from rlhf.measures.rates import wilson  # here, since it loads SciPy

    return max(wilson([1.0] * (n - ties) + [0.5] * ties, confidence)[0] for ties in range(min(n, 3) + 1))
