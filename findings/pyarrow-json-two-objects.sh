#!/usr/bin/env bash
# pyarrow's reader of JSON lines takes two objects on one line as two rows, and a whole number beyond 64 bits as a fraction.
#
# Version: pyarrow 25.0.1, Python 3.11.
# Behaviour: `{"a": 1} {"a": 2}` on one line gives two rows, so that rows and lines no longer count alike: "row 7" of an
#   error is not line 7 of the file. 18446744073709551617 comes back as 1.8446744073709552e+19, another number, and an
#   id of 9007199254740993 as 9007199254740992 as soon as any row of its block has a fraction in that column.
# Expected: an error that names the line, as Python's json has it for the first, and for the others the number or an error.
# Seen: two rows; 1.8446744073709552e+19; 9007199254740992.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pyarrow==25.0.1
"$work/venv/bin/python" - <<'PY'
import io

import pyarrow.json


def rows(text):
    return pyarrow.json.read_json(io.BytesIO(text)).column("a").to_pylist()


two = rows(b'{"a": 1} {"a": 2}\n')
large = rows(b'{"a": 18446744073709551617}\n')
beside = rows(b'{"a": 9007199254740993}\n{"a": 1.5}\n')
alone = rows(b'{"a": 9007199254740993}\n{"a": 1}\n')
print("two objects on one line:", two)
print("beyond 64 bits:", large)
print("beside a fraction:", beside, "and beside a whole number:", alone)
assert two == [1, 2]
assert large == [1.8446744073709552e19] and int(large[0]) != 18446744073709551617
assert beside[0] == 9007199254740992 and alone[0] == 9007199254740993
PY
echo "as described"
