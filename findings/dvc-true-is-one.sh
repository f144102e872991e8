#!/usr/bin/env bash
# DVC says "up to date" after a parameter changed from 1 to true or to 1.0.
#
# Version: dvc 3.67.1, Python 3.11.
# Behaviour: `dvc status` and `dvc repro` compare parameters by Python's ==, for which 1, 1.0 and True are one value. The
#   stage's own reader of params.yaml does tell them apart (true where a number is wanted, an integer division, a printed
#   report), so its output is one that the present parameters would not give, and `dvc repro` never makes it again.
# Expected: a changed type is a changed value, as "1" is.
# Seen: true and 1.0 up to date; "1" and 2 modified.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dvc==3.67.1
export PATH="$work/venv/bin:$PATH" DVC_NO_ANALYTICS=1
mkdir "$work/repo"
cd "$work/repo"
git init --quiet
dvc init --quiet
cat >dvc.yaml <<'YAML'
stages:
  copy:
    cmd: cp params.yaml out
    params: [x]
    outs: [out]
YAML
echo 'x: 1' >params.yaml
dvc repro --quiet
for value in true 1.0 '"1"' 2; do
	echo "x: $value" >params.yaml
	if dvc status | grep -q 'up to date'; then state='up to date'; else state=modified; fi
	echo "x from 1 to $value: $state"
	case "$value" in true | 1.0) wanted='up to date' ;; *) wanted=modified ;; esac
	[ "$state" = "$wanted" ] || { echo 'the behaviour has changed' >&2; exit 1; }
done
