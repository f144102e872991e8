"""What a run would do with your data and your base model, before a second of training.

    python -m flows.doctor                                   # the built-in task
    python -m flows.doctor --recipe chat                     # a recipe
    python -m flows.doctor --data FOLDER --set ingest.source=files \
        --set base.type=pretrained --set base.path=MODEL     # your own

It reads the data and brings in the base model as a run does, shows the first rows as the model will see them
(what is learnt stands in brackets, and in colour on a terminal), how long they are against the context, and
checks what goes wrong silently: templates, special tokens, padding, scores, log-probabilities. At the end it
says all for which a run would be refused. Nothing is trained and nothing is written. It exits with 1 if a
check fails or a run would be refused. A base model that is trained from scratch has random weights here.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from flows.params import add_options, parse_changes, plan
from rlhf.data.errors import DataError
from rlhf.settings import Pretrained, Scratch, Settings
from tasks.runtime.errors import one_line_errors, printable

SHOWN = 2  # rows that are shown whole
COLOURS = {"learnt": "\033[1;32m", "context": "\033[2m", "bad": "\033[1;31m", "good": "\033[32m"}
PLAIN = "\033[0m"


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 if a check fails, or with one line if the input is bad."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Parameters: `python -m rlhf.settings` lists them all.",
    )
    add_options(parser)
    parser.add_argument(
        "--rows", type=int, default=SHOWN, metavar="N", help="rows to show whole (default: 2)"
    )
    options = parser.parse_args(arguments)
    with one_line_errors():
        settings = plan(options.recipe, options.data, parse_changes(options.set))
        passed = examine(settings, options.rows)
        if not _starts(settings, passed) or not passed:
            sys.exit(1)


def examine(settings: Settings, shown: int = SHOWN) -> bool:
    """Print everything about a run's data and base model; returns whether every check passed.

    Raises:
        DataError: data or model that a run would refuse.
    """
    from tasks.ingest import load
    from tasks.prepare import prepare

    raw = load(settings.ingest, settings.seed)
    tables = prepare(raw.tables, settings.prepare, settings.seed)
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in tables.items() if rows)
    _title("Data")
    print(f"source {settings.ingest.source}: {counts}")
    for note in raw.notes:
        print(note)

    from rlhf.models.doctor import cheap_checks  # here, so that bad data is refused before torch is loaded

    policy, changes = base_model(settings.base, tables)
    demonstrations = [row for row in tables["demonstrations"] if row["split"] == "train"]
    if not demonstrations:
        preferred = bool(tables["comparisons"]) and settings.ingest.best_answers == "comparisons"
        mend = (
            "set ingest.best_answers=demonstrations, so that best answers serve as both"
            if preferred
            else "add some"
        )
        raise DataError(
            f"there are no demonstrations of split 'train', so SFT would have nothing to learn; {mend}"
        )
    from tasks.runtime.feasibility import without_cue

    if problem := without_cue(settings, demonstrations, bool(policy.tokenizer.chat_template)):
        raise DataError(problem.text)
    _title("Base model")
    print(
        f"{type(policy.model).__name__}, {policy.model.num_parameters():,} parameters, "
        f"{str(policy.model.dtype).removeprefix('torch.')}"
    )
    stops = ", ".join(_shown(policy.tokenizer, i) for i in policy.stops)
    kind = type(policy.template).__name__.lower()
    print(f"context {policy.context} tokens, template {kind}, an answer ends at {stops}")
    for line in changes:
        print(f"- {printable(line)}")
    _show_rows(policy, demonstrations[:shown], settings.sft.learn)
    _show_lengths(policy, demonstrations, tables["prompts"], settings)
    fits = _fits(policy, tables, settings)
    findings = cheap_checks(policy, demonstrations, policy.tokenizer.name_or_path or None)
    findings += _of_models(policy, demonstrations, tables["comparisons"], settings)
    return _show(findings) and fits


def base_model(base: Scratch | Pretrained, tables: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """The base model as later stages get it, and what was changed of it; random where it is trained here."""
    if isinstance(base, Pretrained):
        from tasks.base import brought

        settled = brought(base)
        return settled.policy, settled.changes
    from rlhf.models.policy import Policy
    from rlhf.models.scratch import new_model, tokenizer_texts, train_tokenizer

    texts = tokenizer_texts(tables["corpus"], tables["demonstrations"])
    tokenizer = train_tokenizer(texts, base.tokenizer, base.vocab_size, base.template == "chatml")
    return Policy(new_model(base.scale, tokenizer, base.context), tokenizer), []


def _of_models(
    policy: Any, demonstrations: Sequence[Any], comparisons: Sequence[Any], settings: Settings
) -> Any:
    """The checks that run the model, on few rows."""
    import torch

    from rlhf.models.adapters import add_adapters
    from rlhf.models.model_checks import check_agreement, check_reward, check_start, check_varies
    from rlhf.models.policy import Policy, true_copy
    from rlhf.models.reward_model import untrained_reward
    from tasks.ppo import rewards_of

    torch.set_num_threads(settings.threads)
    rows, texts = demonstrations[:4], [row["completion"] for row in demonstrations[:4]]
    findings = [check_agreement(policy, rows)]
    several = [row for row in comparisons if len(set(row["completions"])) > 1][:3]
    answers = [row["completions"] for row in several] or [[text, texts[0]] for text in texts[1:3]]
    findings += check_reward(untrained_reward(policy, settings.seed), several or rows[1:3], answers)
    functions, _ = rewards_of(settings.ppo)
    told = demonstrations[:32]
    for function in functions:
        scores = function([row["messages"] or row["prompt"] for row in told], [r["completion"] for r in told])
        findings.append(check_varies(function.__name__, [float(score) for score in scores]))
    if policy.model.get_memory_footprint() < psutil.virtual_memory().available / 2:
        reference = Policy(true_copy(policy.model), policy.tokenizer, settled=policy.settled)
        if settings.base.lora:  # adapters that have learnt nothing change nothing
            add_adapters(policy.model, settings.base.lora)
        findings.append(check_start(policy, reference, rows, texts))
    return findings


def _show_rows(policy: Any, rows: Sequence[Any], learn: str) -> None:
    from rlhf.training.sft import examples

    _title("What the model sees")
    encoded = examples(policy, list(rows), learn)
    for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True):
        start = sum(label == -100 for label in labels)
        context, learnt = (
            "".join(_shown(policy.tokenizer, i) for i in part) for part in (ids[:start], ids[start:])
        )
        print(_coloured("context", context) + _coloured("learnt", f"[{learnt}]"))
        print(f"ids {' '.join(map(str, ids[:start]))} [{' '.join(map(str, ids[start:]))}]\n")


def _show_lengths(
    policy: Any, demonstrations: Sequence[Any], prompts: Sequence[Any], settings: Settings
) -> None:
    """Lengths against the context, and what becomes of what is too long."""
    template, context = policy.template, policy.context
    _title("Lengths, in tokens")
    answers = template.answers(demonstrations, [row["completion"] for row in demonstrations])
    asked = template.prompts(demonstrations)
    whole = [len(a) + len(b) for a, b in zip(asked, answers, strict=True)]
    room = context - settings.ppo.response_length
    for name, lengths, limit in (
        ("demonstrations", whole, context),
        ("their answers", [len(ids) for ids in answers], settings.ppo.response_length),
        ("prompts of PPO", [len(ids) for ids in template.prompts(prompts)], room),
    ):
        if not lengths:
            continue
        ordered = sorted(lengths)
        long = sum(n > limit for n in lengths)
        middle, most = ordered[len(ordered) // 2], ordered[-1]
        print(f"{name}: {len(lengths)}, median {middle}, longest {most}; {long} longer than {limit}", end="")
        print(f" ({_WHEN_LONG[name]})" if long else "")


def _fits(policy: Any, tables: Mapping[str, Any], settings: Settings) -> bool:
    """Print what the context cannot hold, as the stage `validate` would refuse it."""
    from tasks.runtime.feasibility import by_form, conversations_too_long, too_long, turn_counts

    texts, talks = by_form(settings, tables, bool(policy.tokenizer.chat_template))
    template, context = policy.template, policy.context
    problems = [
        too_long(
            settings,
            [row["prompt"] for row in texts],
            context,
            lambda: [len(ids) for ids in template.prompts(texts)],
        ),
        conversations_too_long(settings, talks, context, lambda: turn_counts(template, talks)),
    ]
    for problem in filter(None, problems):
        print(f"{_coloured('bad', 'FAIL')} {problem.text}")
    return not any(problems)


_WHEN_LONG = {
    "demonstrations": "refused, dropped or cut, as prepare.too_long says",
    "their answers": "PPO and evaluation stop there: raise ppo.response_length, evaluate.response_length",
    "prompts of PPO": "refused, or plain ones cut by ppo.max_prompt_length",
}


def _show(findings: Sequence[Any]) -> bool:
    _title("Checks")
    for finding in findings:
        mark = {True: "ok  ", False: "FAIL", None: "-   "}[finding.ok]
        colour = {True: "good", False: "bad", None: "context"}[finding.ok]
        print(f"{_coloured(colour, mark)} {finding.name}: {printable(finding.seen)}")
        print(f"     {_coloured('context', finding.means)}")
        if finding.ok is False:
            print(f"     {finding.mend}")
    failed = sum(finding.ok is False for finding in findings)
    print(
        f"\n{failed} of {len(findings)} checks failed" if failed else f"\nall {len(findings)} checks passed"
    )
    return not failed


def _starts(settings: Settings, passed: bool) -> bool:
    """Print whether `make run` would start with these parameters, and everything that keeps it from that.

    Args:
        settings: every parameter.
        passed: whether data and model passed what was checked before.
    """
    from flows.upfront import doom, refuse, rows_to_come, stages_up_to

    _title("The run")
    lines = doom(settings, rows_to_come(settings), stages_up_to(None))
    for line in lines:
        print(f"{_coloured('bad', 'FAIL')} {line}")
    if lines:
        print("\nmake run refuses these parameters")
        return False
    for line in refuse(settings):
        print(f"note {line}")
    print("make run starts with these parameters" if passed else "what failed above comes first")
    return True


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def _shown(tokenizer: Any, i: int) -> str:
    """A token as a terminal may show it: control characters, which could drive it, are escaped."""
    text = tokenizer.decode([i]) or str(tokenizer.convert_ids_to_tokens(i))
    return "".join(c if c.isprintable() else ("\u23ce\n" if c == "\n" else ascii(c)[1:-1]) for c in text)


def _coloured(name: str, text: str) -> str:
    return f"{COLOURS[name]}{text}{PLAIN}" if sys.stdout.isatty() else text


if __name__ == "__main__":
    main()
