"""Personal data and secrets in texts: which texts of a batch hold some, and the parts of one, masked."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.byte_kinds import Bytes, Mask, holding
from rlhf.measures.safety import mask, personal_data

# What a key looks like, by the prefixes with which services mark theirs, so that tools can find leaked ones.
_KEYS = re.compile(
    r"\b(?:sk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic and others
    r"|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}"  # Hub, Slack, Google
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})"  # JSON Web Tokens
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
)
# What every part has in it, in RE2's spelling: a sieve that is fast enough for every text. What passes it is
# looked at again by the patterns, which see more.
_SIEVE = (
    r"[\w.+-]@[\w-]+\.|\d(?:[ -]?\d){12}|\d{3}[) .-]+\d{3}[ .-]\d{4}"
    r"|\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2}|\d\.\d{1,3}\.\d{1,3}\.\d|\+\d{1,3}[ .()/-]{0,2}\d"
    r"|sk-|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|AIza|eyJ|PRIVATE KEY"
)


def parts(text: str) -> list[tuple[str, str]]:
    """What looks like personal data or a secret, as (kind, the part of the text).

    The kinds of `rlhf.measures.safety.personal_data`, whose numbers need their checksums, and `key`. An
    address of a local network (10.*, 127.*, 192.168.*) or of documentation belongs to nobody.
    """
    seen = [(kind, part) for kind, part in personal_data(text) if not (kind == "ip address" and _local(part))]
    return [*seen, *(("key", match[0]) for match in _KEYS.finditer(text))]


def shown(text: str) -> str:
    """The parts of a text as a message may show them: the kind, and two characters of each."""
    return ", ".join(f"{kind} {mask(part)[:12]}" for kind, part in parts(text)[:3])


def holds_some(texts: Any) -> np.ndarray[Any, Any]:
    """Which texts of an Arrow array hold personal data or secrets."""
    suspects = holding(texts, _may_be_personal)
    if suspects.any():
        passed = pc.match_substring_regex(texts.filter(pa.array(suspects)), _SIEVE)
        suspects[suspects] = passed.to_numpy(zero_copy_only=False)
    for number in np.flatnonzero(suspects):
        suspects[number] = bool(parts(texts[int(number)].as_py()))
    return suspects


def _may_be_personal(content: Bytes) -> Mask:
    """Bytes of which every part has one: a digit, `@`, `_`, `-`; of keys without these, two letters."""
    told = ((content >= 48) & (content <= 57)) | (content == 64) | (content == 95) | (content == 45)
    first, second = content[:-1], content[1:]
    told[:-1] |= (first == 73) & ((second == 65) | (second == 122))  # "IA" of AKIA and ASIA, "Iz" of AIza
    told[:-1] |= (first == 121) & (second == 74)  # "yJ" of eyJ
    return told


def _local(address: str) -> bool:
    return address.startswith(("10.", "127.", "192.168.", "0.", "192.0.2.", "198.51.100.", "203.0.113."))


def masked(value: Any) -> Any:
    """A value of a row with its personal data and secrets masked, for messages and reports."""
    if isinstance(value, str):
        for _kind, part in parts(value):
            value = value.replace(part, mask(part)[:12])
        return value
    if isinstance(value, list):
        return [masked(item) for item in value]
    return {key: masked(item) for key, item in value.items()} if isinstance(value, dict) else value
