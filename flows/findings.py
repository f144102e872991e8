"""What the rules found in a run's data, as a table for Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.data.files import read_json
from rlhf.report.markdown import table

FILES = {"validate": "metrics/findings.json", "validate-comparisons": "metrics/findings-comparisons.json"}


def findings_markdown(stage: str) -> str | None:
    """A table of what a stage found, in the working directory; None where it has checked nothing.

    Args:
        stage: of dvc.yaml.
    """
    path = Path(FILES.get(stage, ""))
    if not path.is_file():
        return None
    findings: list[dict[str, Any]] = read_json(path)
    run = Path(f"runs/{stage}.json")
    findings += read_json(run).get("drift", []) if run.is_file() else []
    if not findings:
        return "Every row keeps every rule."
    rows = [
        [
            finding["table"],
            finding["text"],
            finding["severity"],
            "" if finding["rows"] is None else finding["rows"],
            finding["example"],
            finding["mend"],
        ]
        for finding in findings
    ]
    return table(["table", "what should hold", "severity", "rows", "such as", "mend"], rows)
