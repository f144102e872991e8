"""The built-in task: parser and gold against numbers computed by hand, writers, labelers, posts."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from rlhf.world.gold import gold_score, quality
from rlhf.world.labelers import GROUPS, pool, rank
from rlhf.world.lexicon import CONNECTORS, FACT_TYPES, PHRASES
from rlhf.world.parser import parse
from rlhf.world.posts import draw_post
from rlhf.world.writers import WRITERS, write

FACTS = {
    "who": "sister anna",
    "deed": "broke my laptop",
    "when": "last week",
    "where": "at work",
    "amount": "ten dollars",
    "feeling": "feel angry",
    "ask": "should i forgive",
}
FULL = (  # 21 words
    "my sister anna broke my laptop last week at work. "
    "it cost me ten dollars. i feel angry. should i forgive?"
)


def posts(count: int, decoy_share: float = 0.5, seed: int = 0) -> list:
    rng = random.Random(seed)
    return [draw_post(rng, decoy_share) for _ in range(count)]


def test_parser_reads_a_full_summary() -> None:
    claims = parse(FULL)
    assert {kind: values[0] for kind, values in claims.values.items()} == FACTS
    assert (claims.repeats, claims.confident, claims.stray) == (0, 0, 0)
    assert claims.words == 21
    assert claims.finished


def test_parser_counts_repeats_confident_and_stray_words() -> None:
    claims = parse("Clearly sister anna, SISTER ANNA lost my bike and flew")
    assert claims.values == {"who": ("sister anna",), "deed": ("lost my bike",)}
    assert (claims.repeats, claims.confident, claims.stray) == (1, 1, 1)
    assert claims.words == 10
    assert not claims.finished


@pytest.mark.parametrize("text", ["", " ", "...", "\0\ufffd", "🙂 sister", "my " * 500])
def test_parser_never_fails(text: str) -> None:
    assert parse(text).values == {}


def test_two_values_of_a_type_are_two_claims() -> None:
    assert parse("at work at home").values == {"where": ("at work", "at home")}


# By hand: weights who, deed, ask 1.0; when, where, amount, feeling 0.7 (5.8 in all); a wrong claim costs 1.5
# times its weight, a repeat 0.5, a confident word 0.3, a stray word 0.15, no final stop 0.5, and every word
# beyond 30 costs 0.1.
@pytest.mark.parametrize(
    ("summary", "score"),
    [
        (FULL, 5.8),
        ("my sister anna broke my laptop.", 2.0),
        ("my sister anna broke my laptop", 1.5),
        ("my sister anna broke my laptop last month.", 2.0 - 1.5 * 0.7),
        ("my brother tom broke my laptop.", 1.0 - 1.5),
        ("my sister anna broke my laptop. clearly.", 2.0 - 0.3),
        ("my sister anna broke my laptop. sister anna.", 2.0 - 0.5),
        ("my sister anna broke my laptop. life is hard.", 2.0 - 3 * 0.15),
        (FULL + " my" * 12 + ".", 5.8 - 0.1 * 3),
        ("", -0.5),
    ],
)
def test_gold_score_by_hand(summary: str, score: float) -> None:
    assert gold_score(FACTS, summary) == pytest.approx(score)


def test_quality_axes_by_hand() -> None:
    measured = quality(FACTS, "my sister anna stole my bike. clearly.")
    assert measured.coverage == pytest.approx(1.0 / 5.8)
    assert measured.accuracy == 0.5
    assert measured.wrong == 1
    assert measured.words == 7
    assert measured.coherence == pytest.approx(1 - 1 / 7)


def test_gold_prefers_leaving_out_to_guessing_and_says_more_is_better() -> None:
    short, longer = "my sister anna broke my laptop.", "my sister anna broke my laptop last week."
    wrong = "my sister anna broke my laptop last year."
    assert gold_score(FACTS, longer) > gold_score(FACTS, short) > gold_score(FACTS, wrong)


def test_posts_state_their_facts_and_open_the_summary() -> None:
    for post in posts(300):
        claims = parse(post.text)
        for kind in FACT_TYPES:
            assert post.facts[kind] in claims.values[kind]
        assert post.text.startswith(f"SUBREDDIT: r/{post.subreddit}\nTITLE: my {post.facts['who']}")
        assert post.text.endswith("\nTL;DR:")
        together = " ".join(post.facts[kind] for kind in ("who", "deed", "when", "where"))
        assert f"my {together}." in post.text


def test_decoys_are_stated_and_never_equal_the_facts() -> None:
    drawn = posts(1000)
    with_decoys = [post for post in drawn if post.decoys]
    assert 430 < len(with_decoys) < 570  # half, four standard deviations
    for post in with_decoys:
        assert set(post.decoys) == {"who", "deed", "when", "where"}
        for kind, value in post.decoys.items():
            assert value != post.facts[kind]
            assert value in parse(post.text).values[kind]
        assert post.decoys["who"].split()[1] != post.facts["who"].split()[1]
        assert post.decoys["deed"].split()[-1] != post.facts["deed"].split()[-1]
    assert not any(post.decoys for post in posts(50, decoy_share=0))
    assert all(post.decoys for post in posts(50, decoy_share=1))


def test_the_same_seed_draws_the_same_world() -> None:
    assert posts(20, seed=3) == posts(20, seed=3)
    assert posts(20, seed=3) != posts(20, seed=4)
    post = posts(1)[0]
    assert write(post, random.Random(5)) == write(post, random.Random(5))


def test_writers_differ_as_they_should() -> None:
    drawn = posts(400)
    rng = random.Random(1)
    mean: dict[str, dict[str, float]] = {}
    for writer in WRITERS:
        written = [(post, write(post, rng, writer)) for post in drawn]
        assert all(text.startswith(" ") and not text.startswith("  ") for _, (text, _) in written)
        assert {author.rsplit("-", 1)[0] for _, (_, author) in written} == {writer}
        measured = [quality(post.facts, text) for post, (text, _) in written]
        mean[writer] = {
            "accuracy": sum(q.accuracy for q in measured) / 400,
            "words": sum(q.words for q in measured) / 400,
            "score": sum(q.score for q in measured) / 400,
            "coherence": sum(q.coherence for q in measured) / 400,
        }
    assert mean["careful"]["accuracy"] == mean["terse"]["accuracy"] == 1.0
    assert 0.75 < mean["careless"]["accuracy"] < 0.87  # a fifth of the facts is wrong
    assert mean["terse"]["words"] < mean["careful"]["words"] < mean["rambling"]["words"]
    assert mean["rambling"]["coherence"] < 0.9 < mean["careful"]["coherence"] == 1.0
    assert mean["careful"]["score"] == max(values["score"] for values in mean.values())


def test_no_phrase_of_a_type_stands_inside_one_of_another() -> None:
    owner = {phrase: kind for kind, phrases in PHRASES.items() for phrase in phrases}
    assert len(owner) == sum(map(len, PHRASES.values()))
    for inner, kind in owner.items():
        assert not any(f" {inner} " in f" {outer} " for outer, other in owner.items() if other != kind)
    assert not any(phrase in CONNECTORS for phrase in owner)


def test_labelers_agree_with_gold_by_group() -> None:
    """Share of strictly ordered pairs, different by gold, that a labeler orders as gold does."""
    rng = random.Random(2)
    share = {}
    for group in GROUPS:
        agreed = ordered = 0
        for post in posts(400, seed=7):
            texts = [write(post, rng)[0] for _ in range(4)]
            label = rank(post.facts, texts, rng.sample(range(4), 4), group, rng)
            scores = [gold_score(post.facts, text) for text in texts]
            for i in range(4):
                for j in range(i):
                    if scores[i] != scores[j] and label.ranking[i] != label.ranking[j]:
                        ordered += 1
                        agreed += (scores[i] > scores[j]) == (label.ranking[i] < label.ranking[j])
        share[group] = agreed / ordered
    assert share["expert"] > 0.85
    assert share["expert"] > share["novice"] + 0.05
    assert share["novice"] > 0.6
    assert 0.45 < share["spammer"] < 0.55


def test_rankings_are_dense_and_labels_within_bounds() -> None:
    rng = random.Random(3)
    for post in posts(100):
        for group in GROUPS:
            label = rank(post.facts, [write(post, rng)[0] for _ in range(5)], [4, 2, 0, 1, 3], group, rng)
            assert sorted(set(label.ranking)) == list(range(1, max(label.ranking) + 1))
            assert len(label.ranking) == 5
            assert 1 <= label.strength <= 9
            assert label.seconds > 0


def test_spammers_rank_by_position() -> None:
    rng = random.Random(4)
    texts = [FULL, "bad", "worse", "x"]
    first = [rank(FACTS, texts, [3, 2, 1, 0], "spammer", rng).ranking for _ in range(300)]
    assert sum(ranking[3] < ranking[0] for ranking in first) > 250  # the one shown first wins, however bad


def test_novices_like_length_and_confident_words() -> None:
    plain, sure = "my sister anna broke my laptop.", "clearly definitely my sister anna broke my laptop."
    rng = random.Random(5)
    wins = sum(
        label.ranking[1] < label.ranking[0]
        for label in (rank(FACTS, [plain, sure], [0, 1], "novice", rng) for _ in range(300))
    )
    assert gold_score(FACTS, plain) > gold_score(FACTS, sure)
    assert wins > 150


def test_pool_shares_labelers_out() -> None:
    people = pool({"expert": 0.5, "novice": 0.4, "spammer": 0.1}, size=20)
    assert [sum(group == theirs for _, theirs in people) for group in GROUPS] == [10, 8, 2]
    assert len({name for name, _ in people}) == 20
    with pytest.raises(ValueError, match="unknown labeler group 'robot'"):
        pool({"robot": 1.0})


def test_another_process_draws_the_same_world() -> None:
    code = (
        "from rlhf.settings import Ingest; from rlhf.world.source import builtin; import hashlib;"
        "rows = builtin(Ingest(corpus_posts=100, train_posts=50, test_posts=20), 7);"
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
