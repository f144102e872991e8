#!/usr/bin/env bash
# `Repo.reproduce` returns a stage as reproduced although its command did not run: a restored stage looks like one that ran.
#
# Version: dvc 3.67.1, Python 3.11.
# Behaviour: the list that `Repo.reproduce()` returns holds the stage in both cases, and the stage object has no field that
#   tells them apart. That the outputs came from the run cache is only in a line of the log ("is cached - skipping run").
# Expected: a program that reports what was computed (and what it cost) can ask the API which of the two happened.
# Seen: returned ['copy'] for the first run, ['copy'] for the restored one, [] for one with nothing to do; the command
#   had run once.
# Remedy: give the repo a StageCache whose `restore` notes that it succeeded.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dvc==3.67.1
export PATH="$work/venv/bin:$PATH" DVC_NO_ANALYTICS=1 RAN="$work/ran"
mkdir "$work/repo"
cd "$work/repo"
git init --quiet
dvc init --quiet
cat >dvc.yaml <<'YAML'
stages:
  copy:
    cmd: echo ran >> $RAN && cp params.yaml out
    params: [x]
    outs: [out]
YAML
echo 'x: 1' >params.yaml
cat >"$work/reproduce.py" <<'PY'
import os

from dvc.repo import Repo


def returned():
    with Repo() as repo:
        return [stage.name for stage in repo.reproduce("copy", single_item=True)]


said = [returned()]
os.remove("out")
os.remove("dvc.lock")
said.append(returned())
said.append(returned())
runs = open(os.environ["RAN"]).read().split()
print(f"run {said[0]}, restored {said[1]}, nothing to do {said[2]}; the command ran {len(runs)} time(s)")
if (said, len(runs)) != ([["copy"], ["copy"], []], 1):
    raise SystemExit("the behaviour has changed")
PY
python "$work/reproduce.py" 2>&1 | tail -1
