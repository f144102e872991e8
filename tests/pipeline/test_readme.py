"""README's commands and snippets in a fresh clone: what it promises a new user happens.

A fenced block of shell lines is run as it stands; a server is started, asked and stopped; the snippet for
params.yaml is written there; Python snippets run in the shell's environment. Sizes are those of the tests.
The run on a person's own data comes first, so that the other blocks have its result and one run is enough.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from clone import IDENTITY, clone_project
from conftest import PATIENCE, ROOT, SMALL, free_port

from flows.services.settings import Config, load_config
from rlhf.data.contracts import TABLES
from rlhf.data.errors import DataError
from rlhf.data.files_source import files
from rlhf.data.reading import Source
from rlhf.data.table import read_table, write_table
from rlhf.settings import Prepare
from tasks import validate
from tasks.prepare import SPLIT_TABLES, prepare
from tasks.rules.rule import Asked
from tasks.rules.view import InMemory, views

pytestmark = pytest.mark.slow
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python|yaml|mermaid)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SKIPPED = {  # line of a shell block, without its comment -> why it does not run here
    "make test": "runs this file",
    "make run RECIPE=qa-feedback DATA=path/to/dev_feedback.json": "the data is another project's; minutes",
    **dict.fromkeys(
        (
            'make run DATA=data/mine SET="ingest.source=files base.type=pretrained base.path=../my-model '
            "base.lora.rank=16",
            "  collect.labelers=given evaluate.judges=[reward-model] ppo.judge_tolerance=null",
            '  prepare.judge_share=0.2 prepare.test_share=0.2"',
        ),
        "the model is the reader's own; tests/architectures bring one",
    ),
}
SERVERS = {"make label": "label", "make mlflow": "mlflow", "make prefect": "prefect"}


def steps() -> list[tuple[str, str]]:
    """What to do: ("yaml", text) and the run on it, then ("sh", lines without comments), ("python", text)."""
    first, then, runs = [], [], 0
    for kind, text in BLOCKS:
        lines = [re.sub(r"\s+#.*", "", line) for line in text.splitlines() if line not in SKIPPED]
        if kind == "yaml":
            first.append((kind, text))
        elif kind == "python":
            then.append((kind, text))
        elif kind == "sh":
            runs += lines.count("make run")
            then.append((kind, "\n".join(line for line in lines if line not in {*SKIPPED, "make run"})))
    assert runs == 2, "the built-in task and own data"
    return [*first, ("sh", "make run"), *(step for step in then if step[1])]


STEPS = steps()


@dataclass
class Shell:
    """A person's shell in a clone: what one block exports is there in the next.

    Attributes:
        clone: the working directory.
        config: the ports of the services.
        env: the environment.
    """

    clone: Path
    config: Config
    env: dict[str, str] = field(default_factory=dict)

    def run(self, script: str) -> str:
        """Run lines up to the first that fails; returns what they print."""
        # the environment is installed already: make is told that its mark is old and needs nothing
        script = re.sub(r"^make ", "make -o .venv/.installed ", script, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-ec", f"{script}\nenv -0 > .environment"],
            cwd=self.clone,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        exported = (self.clone / ".environment").read_text().split("\0")
        self.env = dict(line.split("=", 1) for line in exported if "=" in line)
        return done.stdout + done.stderr

    def serve(self, command: str) -> None:
        """Start a server, wait until it answers, and stop it as Ctrl-C does."""
        url = self.config.url(SERVERS[command])
        assert not answers(url), f"{command}: another server answers at {url}"
        process = subprocess.Popen(
            ["make", "-o", ".venv/.installed", command.removeprefix("make ")],
            cwd=self.clone,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + PATIENCE
            while not answers(url):
                assert process.poll() is None, f"{command}: {process.communicate()[0]!r}"
                assert time.monotonic() < end, f"{command}: nothing answers at {url}"
                time.sleep(0.2)
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status < 400
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell in a clone of this checkout with small sizes and free ports."""
    clone = tmp_path_factory.mktemp("readme") / "rlhf-pipeline"
    clone_project(clone)
    services = yaml.safe_load((clone / "services.yaml").read_text())
    for name in ("prefect", "mlflow", "label", "pages"):
        services[name]["port"] = free_port()
    (clone / "services.yaml").write_text(yaml.safe_dump(services))
    subprocess.run(["git", *IDENTITY, "commit", "-qam", "ports"], cwd=clone, check=True)
    ours = ("RLHF_", "MLFLOW_", "PREFECT_", "LABELING_", "FEEDBACK_", "VIRTUAL_ENV", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    shell = Shell(clone, load_config(clone / "services.yaml"), env)
    yield shell
    shell.run("make down")


def write_params(clone: Path, changes: dict[str, Any]) -> None:
    """The default parameters in the sizes of the tests, and changes to some sections."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in SMALL.items():
        section, name = key.split(".")
        values[section][name] = value
    for section, inner in changes.items():
        values[section] |= inner
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def columns_of(table: str) -> list[str]:
    """The columns that README's table says must be there."""
    [line] = re.findall(rf"^\| `{table}`[^|]*\|([^|]*)\|", TEXT, re.MULTILINE)
    return re.findall(r"`(\w+)`", line)


def own_rows(folder: Path, number: int = 120) -> None:
    """A person's files, with the columns that README says must be there and no other."""
    rng = random.Random(1)
    names, things = ["Ann", "Bob", "Cem", "Dot", "Eva"], ["a bicycle", "a tent", "two books", "a lamp"]
    rows: dict[str, list[dict[str, Any]]] = {"demonstrations": [], "comparisons": []}
    for i in range(number):
        name, thing, day = rng.choice(names), rng.choice(things), rng.randint(1, 28)
        prompt = f"{name} lent me {thing} on day {day} and note {i} says so. Who lent what?"
        answers = [f"{name} lent {thing}.", f"{name} lent something.", "Somebody lent something."]
        whole = {"prompt": prompt, "completion": answers[0], "completions": answers, "ranking": [1, 2, 3]}
        whole["labeler_id"] = rng.choice(["p1", "p2"])
        for table in rows:
            rows[table].append({column: whole[column] for column in columns_of(table)})
    folder.mkdir(parents=True, exist_ok=True)
    for table, made in rows.items():
        (folder / f"{table}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


def make_champion(shell: Shell) -> None:
    """The gate promotes no policy of six steps; README speaks of one that it did."""
    shell.run(
        f"{sys.executable} -c 'from mlflow import MlflowClient\n"
        'MlflowClient().set_registered_model_alias("rlhf-policy", "champion", "1")\''
    )


@pytest.mark.parametrize("number", range(len(STEPS)), ids=[text.split("\n")[0][:40] for _, text in STEPS])
def test_readme(number: int, shell: Shell) -> None:
    kind, text = STEPS[number]
    if kind == "yaml":
        changes = yaml.safe_load(text)
        write_params(shell.clone, changes)
        own_rows(shell.clone / changes["ingest"]["path"])
    elif kind == "python":
        make_champion(shell)
        program = shell.clone / "snippet.py"
        program.write_text(f"{text}\n")
        said = shell.run(f".venv/bin/python {program.name}")
        assert "Traceback" not in said
        program.unlink()
    else:
        servers = [line for line in text.splitlines() if line in SERVERS]
        said = shell.run("\n".join(line for line in text.splitlines() if line not in SERVERS))
        for command in servers:
            shell.serve(command)
        if text == "make run":
            assert "Preferred to the reference" in said


def test_own_data_was_read_and_judged(shell: Shell) -> None:
    """The run after the snippet for own data is one of the person's rows."""
    read = json.loads((shell.clone / "metrics/prepare.json").read_text())
    assert read["demonstrations"]["test"]["prompts"] > 10
    judges = json.loads((shell.clone / "metrics/evaluation.json").read_text())["judges"]
    assert [name for name in judges] == ["reward-model"]


@pytest.mark.parametrize("table", ["demonstrations", "comparisons"])
def test_a_column_that_must_be_there_is_missed(table: str, tmp_path: Path) -> None:
    """Without it no row gets to a training; with these columns alone they pass."""
    assert columns_of(table)
    for missing in (None, *columns_of(table)):
        own_rows(tmp_path)
        file = tmp_path / f"{table}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kept = [{name: value for name, value in row.items() if name != missing} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in kept))
        if missing:
            with pytest.raises(DataError, match=missing):
                check(tmp_path)
        else:
            check(tmp_path)


def check(folder: Path) -> None:
    """Files as `ingest`, `prepare` and `validate` would take them.

    Raises:
        DataError: a rule is broken.
    """
    settings = Prepare(judge_share=0.2, test_share=0.2)
    raw = {}
    for name, rows in files([Source(str(folder))], "").tables.items():
        write_table(folder / ".checked" / f"{name}.parquet", TABLES[name], rows)
        raw[name] = read_table(folder / ".checked" / f"{name}.parquet", TABLES[name])
    tables = prepare(raw, settings, 17)
    split = {name: InMemory(tables[name], TABLES[name]) for name in (*SPLIT_TABLES, "corpus")}
    asked = Asked(prepare=settings, required=["comparisons"])
    findings, _ = validate.check(views(split), asked, folder / ".checked" / "docs")
    broken = [finding.line() for finding in findings if finding.severity == "stop"]
    if broken:
        raise DataError(broken[0])


def test_commands_within_the_text_exist() -> None:
    spans = re.findall(r"`((?:make|python -m) [^`]+)`", TEXT)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert len(spans) > 5
    for span in spans:
        if span.startswith("make "):
            assert span.split()[1] in targets, span
        elif "<" not in span:
            module = span.split()[2].replace(".", "/")
            assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists(), span


def test_files_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / target).exists(), target
