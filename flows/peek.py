"""What a file, folder or data set holds and how it would be read, in a minute: nothing is trained or written.

    make peek DATA=PATH                                        a file, a folder, or a pattern
    make peek DATA=votes.csv SET="ingest.columns.prompt=question"
    python -m flows.peek --data PATH --set ingest.layout=pairs

It says which layout was recognised and why, shows the first preference as a person would read it, counts
rows, prompts, people, ties, splits, copies and lengths, and names what would be left out or put aside. It
exits with 1, in one line, for what `ingest` would refuse.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.params import add_options, parse_changes, plan
from rlhf.data.peek import Measure, Peek, peek, readable, summary
from rlhf.data.plural import plural
from rlhf.settings import Pretrained, Settings, SettingsError
from tasks.ingest import file_sources
from tasks.runtime.errors import one_line_errors, printable

LONGEST = 600  # characters of a text that are shown


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with one line if the data cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.peek",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Parameters: `python -m rlhf.settings` lists them all; those of `ingest` matter here.",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    with one_line_errors():
        changes = parse_changes(options.set)
        if options.data and not options.recipe:
            changes = {"ingest.source": "files"} | changes
        settings = plan(options.recipe, options.data, changes)
        if settings.ingest.source == "builtin":
            raise SettingsError(
                "nothing to look at; name it: make peek DATA=PATH (a file, folder or pattern)"
            )
        for line in lines(look(settings), settings):
            print(printable(line))


def look(settings: Settings) -> Peek:
    """What the source of the settings holds, with lengths in tokens of the base where that is at hand.

    Raises:
        DataError: what `ingest` would refuse.
    """
    return peek(file_sources(settings.ingest), tokens(settings))


def tokens(settings: Settings) -> Measure | None:
    """What counts tokens: the template of a pretrained base; none for a base that is trained from scratch,
    since its tokenizer is made of the data."""
    if not isinstance(settings.base, Pretrained):
        return None
    from rlhf.data.base_files import local_folder
    from rlhf.models.base import read_text  # here, since it loads torch
    from rlhf.models.base_source import find

    base = settings.base
    source = find(base.path, base.revision, local_folder(base))
    template = read_text(source, base.template, base.template_arguments).template

    def measure(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[int]:
        asked = [{"prompt": row.get("prompt") or "", "messages": row.get("messages")} for row in rows]
        prompts, answers = template.pairs(asked, texts)
        return [len(a) + len(b) for a, b in zip(prompts, answers, strict=True)]

    return measure


def lines(seen: Peek, settings: Settings) -> Iterator[str]:
    """What was seen, for a terminal and for Prefect's artifact."""
    yield "Recognised"
    for told in seen.parts:
        files = told.part.place
        if len(told.part.files) > 1:
            files += f" and {len(told.part.files) - 1} more"
        why = "said by ingest.layout" if settings.ingest.layout else f"columns {', '.join(told.columns)}"
        yield f"  {files}: {told.layout.name}, {told.layout.about} ({why})"
    yield ""
    yield f"First row ({seen.first.table}, {seen.first.row['source']})"
    text = readable(seen.first)
    yield text if len(text) <= LONGEST * 4 else text[: LONGEST * 4] + " ..."
    yield ""
    yield "Counts"
    for name, table in seen.tables.items():
        splits = ", ".join(f"{count} {split}" for split, count in sorted(table.splits.items()))
        people = f", {plural(len(table.labelers), 'person')}" if table.labelers else ""
        ties = f", {table.ties} of {plural(table.pairs, 'pair')} tied" if table.pairs else ""
        copies = f", {plural(table.copies, 'copy')} of earlier ones" if table.copies else ""
        counts = f"{plural(table.rows, 'row')}, {plural(len(table.prompts), 'prompt')}{people}{ties}{copies}"
        yield f"  {name}: {counts}; split: {splits}"
        if table.lengths:
            yield f"    prompt and answer in {seen.unit}: {summary(table.lengths)}"
    notes = seen.notes.lines()
    if notes or seen.quarantined:
        yield ""
        yield "Left out or read in a way to know"
        yield from (f"  {note}" for note in notes)
        if seen.quarantined:
            first = seen.examples[0]
            aside = plural(seen.quarantined, "row")
            yield f"  {aside} would go to quarantine, such as {first.where}: {first.why}"


if __name__ == "__main__":
    main()
