"""The long form of the chaos tests: `make chaos`. Writes what was tried and what came of it.

    python tests/chaos/chaos.py                                # every family
    python tests/chaos/chaos.py --family kill --tries 50       # one of them
    python tests/chaos/chaos.py --minutes 30                   # stop beginning tries after a while

Each family works on a small but whole main job that ran undisturbed before. The table has a line for each
scenario: how often it was tried, how the tries ended, and what was lost. It is written after every try, and
tries of the same date are added to it. Exit code 1 where a try ended in a fault.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (0, 1, 2)]

import kill_job  # noqa: E402
import services_away  # noqa: E402
import storage  # noqa: E402
import training_faults  # noqa: E402
from lab import Lab, Try, lab  # noqa: E402

from rlhf.data.files import read_json, write_json, written_beside  # noqa: E402

RESULTS = Path(__file__).with_name("results")
FAMILIES = ("kill", "storage", "services", "training")
USUAL_TRIES = {"kill": 50, "storage": 26, "services": 24, "training": len(training_faults.FAULTS)}


def tries_of(here: Lab, family: str, number: int, seed: int) -> Iterator[Try]:
    """The tries of a family."""
    if family == "kill":
        for blows in kill_job.cycles(number, seed):
            yield from kill_job.cycle(here, blows)
    elif family == "storage":
        rng, scenarios = random.Random(seed), storage.scenarios_that_can_run()
        for count in range(number):
            started = time.monotonic()
            done = scenarios[count % len(scenarios)](here, rng)
            done.seconds = round(time.monotonic() - started, 1)
            yield done
    elif family == "services":
        yield from services_away.run(here, number, seed)
    else:
        yield from training_faults.run(here)


def summary(tries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each scenario: tries, outcomes, and how many lost something."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for done in tries:
        rows.setdefault((done["family"], done["scenario"]), []).append(done)
    return [
        {
            "family": family,
            "scenario": scenario,
            "tries": len(those),
            "outcomes": dict(Counter(done["outcome"] for done in those)),
            "lost": sum(bool(done["lost"]) for done in those),
        }
        for (family, scenario), those in sorted(rows.items())
    ]


def markdown(result: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        f"# Chaos, {result['date']}",
        "",
        f"{result['machine']}. Commit {', '.join(result['commits'])}.",
        "`make chaos`; every try is in the JSON file beside.",
        "",
        "| family | scenario | tries | outcome | lost |",
        "|---|---|---|---|---|",
    ]
    for row in result["summary"]:
        outcomes = ", ".join(f"{count} {what}" for what, count in sorted(row["outcomes"].items()))
        lines.append(f"| {row['family']} | {row['scenario']} | {row['tries']} | {outcomes} | {row['lost']} |")
    faults = [done for done in result["tries"] if done["lost"]]
    if faults:
        lines += ["", "What was lost or wrong:", ""]
        lines += [
            f"- {done['family']}, {done['scenario']} ({done['detail']}): {_short('; '.join(done['lost']))}"
            for done in faults
        ]
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) < 400 else f"{line[:120]} ... {line[-270:]}"


def machine() -> str:
    """The processor, its cores and the system, in a line."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="only this one; may be given again"
    )
    parser.add_argument("--tries", type=int, help="tries in each family (default: its own number)")
    parser.add_argument("--seed", type=int, default=1, help="of moments and choices (%(default)s)")
    parser.add_argument("--minutes", type=float, default=600, help="begin no try after so long")
    parser.add_argument("--work", type=Path, help="where to work (default: the folder for temporary files)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the table goes (%(default)s)")
    parser.add_argument(
        "--server",
        action="store_true",
        help="one Prefect server for all runs, as with `make up`; on a slow machine a temporary one for "
        "each run takes longer than the runs",
    )
    options = parser.parse_args()
    from tasks.runtime.places import git_commit

    date, end = time.strftime("%Y-%m-%d", time.gmtime()), time.monotonic() + 60 * options.minutes
    path = options.results / f"chaos-{date}.json"
    before = read_json(path) if path.exists() else {"tries": [], "commits": []}
    result = {"date": date, "machine": machine(), "commits": before["commits"], "tries": before["tries"]}
    commit = git_commit()[:12]
    result["commits"] = [*dict.fromkeys([*result["commits"], commit])]
    faults = 0
    with lab(options.work, options.server) as here:
        for family in options.family or FAMILIES:
            number = options.tries or USUAL_TRIES[family]
            for done in tries_of(here, family, number, options.seed):
                faults += bool(done.lost)
                print(
                    f"{done.family}: {done.scenario} ({done.detail}): {done.outcome}; {done.seconds:.0f} s",
                    flush=True,
                )
                for line in done.lost:
                    print(f"    {line}", flush=True)
                result["tries"].append(done.row())
                result["summary"] = summary(result["tries"])
                write_json(path, result)
                with written_beside(path.with_suffix(".md")) as beside:
                    beside.write_text(markdown(result))
                if time.monotonic() > end:
                    break
            if time.monotonic() > end:
                break
    print(f"{path.with_suffix('.md')}: {faults} faults in this call")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
