#!/usr/bin/env bash
# One item that never loses levels the Bradley-Terry scores of all items, without an error.
#
# Version: evalica 0.4.2, Python 3.11.
# Behaviour: `bradley_terry` has no maximum where an item never loses (or never wins), and so it cannot converge; it
#   returns the same 1e-06 for every item, so that a ranking by score is a ranking by chance. Few labels and one strong
#   policy are enough, which is the usual case at the start of a study.
# Expected: an error, an infinite score for that item, or at least the order of the others kept.
# Seen: four items {a: 1.52, b: 1.00, c: 0.66} become {a: b: c: d: 1e-06} when d has won its only two games.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet evalica==0.4.2
"$work/venv/bin/python" - <<'PY'
from evalica import Winner, bradley_terry

games = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")]


def scores(pairs):
    """Scores by item of (winner, loser) pairs."""
    winners, losers = zip(*pairs)
    return bradley_terry(winners, losers, [Winner.X] * len(pairs)).scores.to_dict()


before, after = scores(games), scores([*games, ("d", "a"), ("d", "b")])
print(f"three items:                {before}")
print(f"and one that never loses:   {after}")
assert before["a"] > 1.5 > before["c"], "the behaviour has changed"
assert len({round(score, 9) for score in after.values()}) == 1, "the behaviour has changed"
PY
