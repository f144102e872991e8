"""The verdict in a language model's reply, in the forms in which models write one.

A verdict is a line (`Verdict: A`), `[[A]]` (as MT-Bench asks for), JSON, a tag or a box; around it stand
words and marks. Whatever says two different things, or nothing of A, B and tie, is none: it is refused,
because a guess would be a win for somebody.
"""

from __future__ import annotations

import re

# What a model writes before it answers. A block that never ends was cut off, and holds no answer.
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning|reflection)>.*?(</\1>|\Z)", re.I | re.S)
_BEFORE = re.compile(r"\A.*</(?:think|thinking|thought|reasoning|reflection)>", re.I | re.S)
_MARKS = r"[\s\"'“”‘’*_`#>|(\[{<$\\]*"  # quotes, emphasis, headings, brackets
_WHOSE = r"(?:(?:response|answer|assistant|output|option|text|candidate|summary)[\s_\-]*)?"
_TOKEN = r"(?:(?:it(?:'|’)?s|it is)\s+)?(?:a\s+(?=tie))?(?P<token>tie|A|B)(?![A-Za-z0-9'’])"
_LINE = re.compile(
    rf"\bverdict\b[\"'*_`]*\s*(?:is\b)?[\s\"'*_`#>:：=\-–—.|]*{_MARKS}(?:boxed|text|mathbf|textbf|\{{|\s)*"
    rf"{_MARKS}{_WHOSE}{_MARKS}{_TOKEN}(?=(?P<rest>[^\n]*))",
    re.I,
)
_FORMS = (
    re.compile(rf"\[\[\s*{_WHOSE}(?P<token>A|B|tie)\s*\]\]", re.I),
    re.compile(rf"<verdict>\s*{_WHOSE}(?P<token>A|B|tie)\W*</verdict>", re.I),
    re.compile(rf"\\boxed\{{\s*(?:\\\w+\{{)?\s*{_WHOSE}(?P<token>A|B|tie)\s*\}}", re.I),
    re.compile(
        r"[\"'](?:verdict|winner|preferred|preference|better|best|choice|answer|decision|judgment|judgement)[\"']"
        rf"\s*:\s*[\"']\s*{_WHOSE}(?P<token>A|B|tie)\s*[\"']",
        re.I,
    ),
)
_SENTENCE = re.compile(
    rf"\W*(?:(?:overall|therefore|so|thus|hence|finally),?\s+)?{_WHOSE}{_MARKS}(?P<token>A|B){_MARKS}\s*"
    r"(?:is\s+(?:the\s+)?(?:(?:clearly|slightly|much|overall)\s+)?better(?:\s+(?:response|answer|one|text))?|"
    r"wins)\W*",
    re.I,
)
_CLEAN = re.compile(r"[\s\"'“”‘’*_`)\]}>$|.,;:!。]*")
_OTHER = re.compile(rf"\s*(?:or|and|/|&|,|vs\.?)?{_MARKS}{_WHOSE}(?:A|B|tie)(?![A-Za-z0-9'’])", re.I)
_PRAISE = re.compile(r"(?:is|was|wins|won|because|since|as|for|by|over)\b|[-–—,;.(:!]", re.I)
_BLAME = re.compile(r"\b(?:not|no|never|worse|worst|weaker|inferior|less|loses|lost|hardly)\b|n['’]t\b", re.I)
_ALL = ["A", "B", "tie"]


def read_verdict(reply: str) -> str | None:
    """`A`, `B` or `tie` as the reply says, None where it says none or several different ones.

    >>> read_verdict("<think>Verdict: B?</think> **Verdict:** Response A."), read_verdict("Verdict: A or B")
    ('A', None)
    """
    answer = _THOUGHT.sub("\n", _BEFORE.sub("", reply))
    # A verdict that is of two forms at once is one, at the place of its letter.
    matches = {match.start("token"): match for form in (_LINE, *_FORMS) for match in form.finditer(answer)}
    verdicts = [token for place in sorted(matches) for token in _said(matches[place])]
    if not verdicts and not matches:
        lines = [line for line in answer.splitlines() if line.strip()]
        last = _SENTENCE.fullmatch(lines[-1]) if lines else None
        verdicts = [_named(last["token"])] if last else []
    said = set(_without_echo(verdicts))
    return said.pop() if len(said) == 1 else None


def _said(match: re.Match[str]) -> list[str]:
    """What a match says: nothing where the words behind it say something else, both where it names both."""
    token = _named(match["token"])
    rest = match.groupdict().get("rest")
    if rest is None or _CLEAN.fullmatch(rest):
        return [token]
    if _OTHER.match(_CLEAN.sub("", rest, count=1) if rest[:1] in ",/&" else rest):
        return ["A", "B"]
    rest = rest.lstrip("\"'“”‘’*_`)]}>$| ")
    clause = re.split(r"[.;,]|\bbecause\b|\bsince\b", rest.lstrip(".,;:-–— "), maxsplit=1)[0]
    if not _PRAISE.match(rest) or (re.match(r"(?:is|was)\b", rest, re.I) and _BLAME.search(clause)):
        return []
    return [token]


def _named(token: str) -> str:
    return "tie" if token.lower() == "tie" else token.upper()


def _without_echo(verdicts: list[str]) -> list[str]:
    """Verdicts without those of a reply that repeats the three lines that it was told to choose from."""
    kept: list[str] = []
    for verdict in verdicts:
        kept.append(verdict)
        if kept[-3:] == _ALL:
            del kept[-3:]
    return kept
