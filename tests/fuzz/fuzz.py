"""Coverage-guided fuzzing of what reads texts by anybody: files of rows, and summaries.

`make fuzz MINUTES=60` gives each target its share of the time, one after the other, and keeps corpus and
findings in the state folder. Not a test: what it finds becomes a harmless case in the tests. Atheris
(Apache-2.0) guides by the branches that a text reaches; it is no dependency of the project.

A target fails by whatever is not the error for bad input, or by a message that is not one short line. An
input with a new failure is kept, once for each place in the code, and the search goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["rlhf", "labeling"], enable_loader_override=False):
    from labeling.candidates import read_candidates
    from rlhf.data.errors import DataError
    from rlhf.data.files_source import files
    from rlhf.data.layouts.layout import Options
    from rlhf.data.reading import Source
    from rlhf.world.parser import parse

LONGEST = 1500  # characters of a message: what is wrong, where and how to mend it
SLOWEST = 5.0  # seconds of the processor for an input of `LARGEST` bytes
LARGEST = 4096
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")
KEEP = ((), ("*",))
Target = Callable[[bytes], None]


def ingest(data: bytes) -> None:
    """Read a file of rows: the first byte says its type and what is asked of the reading."""
    if not data:
        return
    suffix = SUFFIXES[data[0] % len(SUFFIXES)]
    asked = data[0] // len(SUFFIXES)
    path = FOLDER / f"rows{suffix}"
    path.write_bytes(data[1:])
    options = Options(keep=KEEP[asked % 2], direction=(None, "lower", "higher")[asked // 2 % 3])
    source = Source(str(path), unreadable=("refuse", "quarantine")[asked // 6 % 2], options=options)
    try:
        if asked // 12 % 4 == 0:
            read_candidates(path, options=options)
        else:
            files([source], "of a fuzzer")
    except DataError as error:
        line = str(error)
        assert line.isprintable() or "\n" not in line, "a message of several lines"
        assert len(line) < LONGEST, f"a message of {len(line)} characters"


def summaries(data: bytes) -> None:
    """Parse a summary: no text fails, and every word is counted once."""
    text = data.decode(errors="surrogateescape")
    claims = parse(text)
    claimed = sum(len(phrase.split()) for phrases in claims.values.values() for phrase in phrases)
    assert claimed + claims.confident + claims.stray <= claims.words
    assert claims == parse(text)


TARGETS: dict[str, Target] = {"ingest": ingest, "summaries": summaries}


class Findings:
    """Failures of a target, each place in the code once; the counts are written to a file.

    Args:
        name: of the target.
        folder: gets an input for each failure, with the traceback beside it.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._target, self._folder, self._name = TARGETS[name], folder, name
        self._seen: set[str] = set()
        self._began = self._told = time.time()
        self._runs = 0

    def __call__(self, data: bytes) -> None:
        """Run the target on an input."""
        self._runs += 1
        began = time.process_time()
        try:
            self._target(data)
        except Exception as error:
            last = [
                frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename
            ]
            self._keep(data, f"{type(error).__name__} {last[-1].filename}:{last[-1].lineno}")
        if time.process_time() - began > SLOWEST:
            self._keep(data, "slow")
        if time.time() - self._told > 10:
            self._told = time.time()
            said = {"runs": self._runs, "seconds": round(self._told - self._began), "found": len(self._seen)}
            (self._folder / f"{self._name}.json").write_text(json.dumps(said) + "\n")

    def _keep(self, data: bytes, place: str) -> None:
        if place in self._seen:
            return
        self._seen.add(place)
        name = self._folder / f"{self._name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        name.write_bytes(data)
        name.with_suffix(".txt").write_text(f"{place}\n{traceback.format_exc()}")
        print(f"found: {place}: {name}", flush=True)


def seeds(name: str, folder: Path) -> None:
    """Write the inputs that the search begins with: the layouts of the tests, and phrases of posts."""
    if name == "summaries":
        from rlhf.world.lexicon import CONFIDENT, FILLER, PHRASES

        for number, phrases in enumerate((*PHRASES.values(), CONFIDENT, FILLER)):
            (folder / f"seed-{number}").write_text(", ".join(phrases[:8]) + ".")
        return
    from layout_fixtures import FIXTURES

    for fixture, (_, records) in FIXTURES.items():
        lines = "".join(json.dumps(record) + "\n" for record in records[:3])
        columns = list(records[0])
        cells = "\n".join(",".join(json.dumps(str(row.get(c, ""))) for c in columns) for row in records[:2])
        texts = (lines, json.dumps(records[:3]), ",".join(columns) + "\n" + cells + "\n")
        for number, text in enumerate(texts):
            (folder / f"{fixture}-{number}").write_bytes(bytes([number]) + text.encode())


def dictionary(path: Path) -> None:
    """Write the words that the search puts into inputs: columns of layouts, and what files are made of."""
    from layout_fixtures import FIXTURES

    words = {str(name) for _, records in FIXTURES.values() for record in records for name in record}
    words |= {
        "null",
        "true",
        "false",
        "NaN",
        "Infinity",
        "1e999",
        "-0",
        "\\ud800",
        "\\u0000",
        "\ufeff",
        "[[",
        "{}",
    }
    words |= {'","', '":"', "first", "second", "tie", "train", "test", "role", "content", "user", "assistant"}
    spelled = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in sorted(words))
    path.write_text("".join(f'"{word}"\n' for word in spelled))


def main() -> None:
    """Fuzz one target for some seconds, or all of them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of all targets together")
    parser.add_argument("--target", choices=TARGETS, help="one of them alone")
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("RLHF_STATE", ".state")) / "fuzz")
    asked = parser.parse_args()
    if asked.target is None:
        for name, share in (("ingest", 0.8), ("summaries", 0.2)):
            command = [sys.executable, __file__, "--target", name, "--minutes", str(asked.minutes * share)]
            subprocess.run([*command, "--state", str(asked.state)], check=True)
        return
    corpus, found = asked.state / f"corpus-{asked.target}", asked.state / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    seeds(asked.target, corpus)
    dictionary(asked.state / "words")
    words = [
        *(sys.argv[0], str(corpus), f"-dict={asked.state / 'words'}", f"-artifact_prefix={found}/"),
        *(
            f"-max_total_time={int(asked.minutes * 60)}",
            f"-max_len={LARGEST}",
            "-timeout=600",
            "-print_final_stats=1",
        ),
    ]
    atheris.Setup(words, Findings(asked.target, found))
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as _folder:
        FOLDER = Path(_folder)
        main()
