"""PKU-SafeRLHF (Ji et al. 2023): two responses, which is better and which is safer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.values import common, comparison, filled

_COLUMNS = {"better": "better_response_id", "safer": "safer_response_id"}


def _fits(columns: Mapping[str, str]) -> bool:
    return {"response_0", "response_1"} <= columns.keys() and bool(columns.keys() & set(_COLUMNS.values()))


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        column = _column(columns, options, notes)
        better = columns.get(column)
        if not filled(better) or str(better).removesuffix(".0") == "-1":
            notes.pass_over(f"rows without {column}", record.where)
            continue
        if str(better).removesuffix(".0") not in ("0", "1"):
            raise DataError(f"{column} is {ascii(better)[:40]}; it must be 0 or 1")
        policies = [str(columns.get(f"response_{i}_source") or "") for i in range(2)]
        safe = [columns.get(f"is_response_{i}_safe") for i in range(2)]
        yield comparison(
            {"prompt": text_of(columns.get("prompt"), "prompt")},
            [text_of(columns.get(name), name) for name in ("response_0", "response_1")],
            ranking=[1, 2] if str(better)[0] == "0" else [2, 1],
            policies=policies if any(policies) else None,
            extra={"is_safe": safe} if any(s is not None for s in safe) else None,
            **common(columns),
        )


def _column(columns: Mapping[str, object], options: Options, notes: Notes) -> str:
    """Which of the two questions counts: the better response, or the one that the user names."""
    there = {name: column for name, column in _COLUMNS.items() if column in columns}
    wanted = [_COLUMNS.get(name, name) for name in options.aspects]
    if len(wanted) > 1 or not set(wanted) <= set(there.values()):
        raise DataError(
            f"ingest.aspects must be {' or '.join(f'{{{name}: 1}}' for name in there)}; one of them decides"
        )
    column = wanted[0] if wanted else next(iter(there.values()))
    notes.say(
        f"{column} decides; ingest.aspects, such as {{safer: 1}}, says that another question does; whether "
        "the responses are safe is kept in extra"
    )
    return column


LAYOUT = Layout(
    name="pku",
    about="two responses, the better and the safer (PKU-SafeRLHF); `ingest.aspects: {safer: 1}` takes the "
    "latter",
    columns="`prompt`, `response_0`, `response_1`, `better_response_id`, `safer_response_id`, "
    "`is_response_0_safe`",
    fits=_fits,
    rows=_rows,
    own=frozenset(("prompt", "better_response_id", "safer_response_id", "split", "source", "labeler_id"))
    | {f"{a}response_{i}{b}" for i in range(2) for a, b in (("", ""), ("", "_source"), ("is_", "_safe"))},
)
