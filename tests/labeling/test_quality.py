"""Labeler quality: planted abilities and biases are found again, agreement is that of known data."""

from __future__ import annotations

import ast
import json
from typing import Any

import evalica
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.special import expit
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score

from labeling.quality import bradley_terry, dawid_skene
from labeling.quality.agreement import Answer, agreement, agreement_by, answers
from labeling.quality.signals import signals
from labeling.quality.votes import Votes, votes
from labeling.quality.weights import labeler_weights
from rlhf.data.errors import DataError

RATINGS = ROOT.parent / "shared/data/cnndm_human_ratings/lqual.jsonl"


def row(labeler: str | None, ranking: list[int], prompt: str = "p", **more: Any) -> dict[str, Any]:
    texts = [" a b c d", " a b c", " a b", " a"][: len(ranking)]
    return {
        "prompt": prompt,
        "completions": texts,
        "ranking": ranking,
        "labeler_id": labeler,
        "labeler_group": None,
        "shown_order": list(range(len(ranking))),
        "seconds": None,
    } | more


def planted(
    rng: np.random.Generator, ability: np.ndarray, bias: np.ndarray, prompts: int = 500, overlap: int = 3
) -> tuple[Votes, np.ndarray]:
    """Votes of Bradley-Terry labelers on the pairs among three outputs a prompt; and the true scores."""
    score = rng.normal(0, 1.5, prompts * 3)
    columns: list[tuple[int, int, int, float, int]] = []
    for prompt in range(prompts):
        for labeler in rng.choice(len(ability), overlap, replace=False):
            for a, b in ((0, 1), (0, 2), (1, 2)):
                i, j, side = prompt * 3 + a, prompt * 3 + b, int(rng.choice((-1, 1)))
                chance = expit(ability[labeler] * (score[i] - score[j]) + bias[labeler] * side)
                columns.append((i, j, labeler, float(rng.random() < chance), side))
    arrays = [np.array(column) for column in zip(*columns, strict=True)]
    outputs = [(str(i // 3), str(i)) for i in range(len(score))]
    return Votes(*arrays, outputs, [str(i) for i in range(len(ability))]), score


# ---- votes ----


def test_what_was_not_ranked_is_no_opinion() -> None:
    partial, whole = row("ann", [2, None, 1]), row("ben", [1, 2])
    assert len(votes([partial, whole]).first) == 2
    assert [answer.value for answer in answers([partial])] in (["first"], ["second"])
    assert signals([partial])["ann"].tie_rate == 0


def test_votes_are_the_pairs_of_a_ranking_with_the_side_each_was_shown_on() -> None:
    cast = votes([row("ann", [2, 1, 2], shown_order=[2, 0, 1])])
    assert list(zip(cast.first, cast.second, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert list(cast.preferred) == [0, 0.5, 1]
    assert list(cast.side) == [1, -1, -1]
    assert set(votes([row("ann", [1, 2], shown_order=None)]).side) == {0}


def test_votes_on_the_same_outputs_meet_whatever_their_order_in_the_row() -> None:
    turned = row("bob", [1, 2]) | {"completions": [" a b c", " a b c d"]}
    cast = votes([row("ann", [1, 2]), turned, row("cat", [1, 2], prompt="q")])
    assert list(cast.pair) == [0, 0, 1]
    assert list(cast.preferred) == [1, 0, 1]
    assert list(cast.side) == [1, -1, 1]
    assert list(cast.shared().labeler) == [0, 1]
    # one person twice is no overlap
    assert len(votes([row("ann", [1, 2]), row("ann", [2, 1])]).shared()) == 0


def test_a_row_without_labeler_is_one_line() -> None:
    with pytest.raises(DataError, match="row 2: labeler_id is empty"):
        votes([row("ann", [1, 2]), row(None, [1, 2])])


# ---- Dawid-Skene ----


def coins(
    rng: np.random.Generator, accuracy: np.ndarray, left_bias: np.ndarray, pairs: int = 1500, overlap: int = 3
) -> tuple[Votes, np.ndarray]:
    """Votes of one-coin labelers with a pull to the left on pairs; and which output is the better one."""
    truth = rng.random(pairs) < 0.5
    columns: list[tuple[int, int, int, float, int]] = []
    for pair in range(pairs):
        for labeler in rng.choice(len(accuracy), overlap, replace=False):
            side = int(rng.choice((-1, 1)))
            better_on_left = truth[pair] == (side == 1)
            right = rng.random() < accuracy[labeler] + (1 if better_on_left else -1) * left_bias[labeler]
            columns.append((2 * pair, 2 * pair + 1, labeler, float(truth[pair] == right), side))
    arrays = [np.array(column) for column in zip(*columns, strict=True)]
    outputs = [(str(i // 2), str(i)) for i in range(2 * pairs)]
    return Votes(*arrays, outputs, [str(i) for i in range(len(accuracy))]), truth


def test_dawid_skene_finds_planted_accuracies_and_biases() -> None:
    accuracy = np.array([0.95, 0.9, 0.9, 0.85, 0.8, 0.8, 0.75, 0.7, 0.65, 0.5, 0.5, 0.3])
    bias = np.array([0.0, 0.0, 0.05, -0.1, 0.1, 0.0, 0.15, -0.2, 0.0, 0.45, -0.4, 0.0])
    cast, truth = coins(np.random.default_rng(1), accuracy, bias)
    fitted = dawid_skene.fit(cast)
    assert np.abs(fitted.accuracy - accuracy).max() < 0.06
    assert np.abs(fitted.left_bias - bias).max() < 0.06
    # it knows the better output more often than the majority does, and knows how well it knows
    majority = np.bincount(cast.pair, cast.preferred) > 1.5
    right = (fitted.first_better > 0.5) == truth
    assert right.mean() > (majority == truth).mean() + 0.03
    assert right.mean() == pytest.approx(
        np.maximum(fitted.first_better, 1 - fitted.first_better).mean(), abs=0.03
    )
    # without the bias, those who answer by position look as good as the side they lean to
    assert np.abs(dawid_skene.fit(cast, position_bias=False).left_bias).max() == 0


def test_dawid_skene_without_votes_is_its_prior() -> None:
    alone = votes([row("ann", [1, 2])]).shared()
    assert dawid_skene.fit(alone).accuracy == pytest.approx([0.6])


# ---- Bradley-Terry ----


def test_bradley_terry_finds_planted_abilities_and_biases() -> None:
    ability = np.array([2.0, 1.5, 1.5, 1.2, 1.0, 1.0, 0.8, 0.5, 0.0, 0.0, -1.0, 1.0])
    bias = np.array([0.0, 0.0, 1.0, 0.0, -0.5, 0.0, 0.0, 0.5, 2.0, 0.0, 0.0, -1.0])
    cast, score = planted(np.random.default_rng(2), ability, bias, prompts=600, overlap=6)
    fitted = bradley_terry.fit(cast)
    assert spearmanr(fitted.ability, ability).statistic > 0.95
    assert set(np.flatnonzero(fitted.ability < 0.2)) == {8, 9, 10}
    assert pearsonr(fitted.left_bias, bias).statistic > 0.97
    gaps = [(i, i + 1) for i in range(0, len(score), 3)]
    assert pearsonr(*([s[i] - s[j] for i, j in gaps] for s in (fitted.score, score))).statistic > 0.85


def test_the_bradley_terry_gradient_is_that_of_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    cast, _ = planted(np.random.default_rng(3), np.array([1.0, 0.5, 2.0]), np.zeros(3), prompts=4, overlap=2)
    losses = []

    def spy(loss, start, **kwargs):
        losses.append((loss, start))
        return real(loss, start, **kwargs)

    real = bradley_terry.minimize
    monkeypatch.setattr(bradley_terry, "minimize", spy)
    bradley_terry.fit(cast)
    loss, start = losses[0]
    x = start + np.random.default_rng(0).normal(0, 0.5, len(start))
    numeric = [(loss(x + step)[0] - loss(x - step)[0]) / 2e-5 for step in np.eye(len(x)) * 1e-5]
    np.testing.assert_allclose(loss(x)[1], numeric, atol=1e-5)


# ---- against crowd-kit (development only) ----


def test_both_models_agree_with_crowd_kit() -> None:
    reason = "crowd-kit is not here: pip install --no-deps --target DIR crowd-kit==1.4.1, DIR on PYTHONPATH"
    aggregation = pytest.importorskip("crowdkit.aggregation", reason=reason)
    accuracy = np.array([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5])
    cast, _ = coins(np.random.default_rng(4), accuracy, np.zeros(8), pairs=600, overlap=4)
    # Theirs also fits how often each label is true; every pair once more, turned round, makes that one half.
    table = pd.DataFrame({"task": cast.pair, "worker": cast.labeler, "label": cast.preferred.astype(int)})
    turned = table.assign(task=table["task"] + len(table), label=1 - table["label"])
    theirs = aggregation.OneCoinDawidSkene(n_iter=1000, tol=0).fit(pd.concat([table, turned]))
    ours = dawid_skene.fit(cast, position_bias=False, prior=(1e-6, 1e-6), tolerance=1e-8)
    np.testing.assert_allclose(ours.accuracy, theirs.skills_.sort_index(), atol=1e-3)
    np.testing.assert_allclose(
        ours.first_better, theirs.probas_.sort_index()[1][: cast.pair.max() + 1], atol=1e-2
    )

    # Theirs mixes a reader with a coin (Bugakova et al. 2019), ours scales the gap: the orders agree.
    ability, bias = np.array([3.0, 2.0, 1.5, 1.0, 0.6, 0.0]), np.zeros(6)
    cast, _ = planted(np.random.default_rng(5), ability, bias, prompts=60, overlap=5)
    left, right = (np.array([str(i) for i in side]) for side in (cast.first, cast.second))
    table = pd.DataFrame({"worker": cast.labeler, "left": left, "right": right})
    table["label"] = np.where(cast.preferred == 1, left, right)
    theirs = aggregation.NoisyBradleyTerry(n_iter=200, regularization_ratio=0.1).fit(table)
    ours = bradley_terry.fit(cast)
    scores = theirs.scores_.loc[[str(i) for i in range(len(ours.score))]].to_numpy()
    gaps = [(i, i + 1) for i in range(0, len(scores), 3)]
    assert spearmanr(*([s[i] - s[j] for i, j in gaps] for s in (ours.score, scores))).statistic > 0.85


# ---- agreement ----


def test_agreement_on_human_ratings_of_summaries() -> None:
    if not RATINGS.exists():
        pytest.skip("shared/data/cnndm_human_ratings is not beside the repository")
    ratings = []
    for line in RATINGS.read_text().splitlines():
        rating = json.loads(line)
        scores = rating["prompts"]["overall"]["human"]
        people = rating["annotators"]
        people = ast.literal_eval(people) if isinstance(people, str) else people
        unit = f"{rating['id']} {rating['system']}"
        ratings += [Answer(unit, rating["id"], str(p), s) for p, s in zip(people, scores, strict=True)]
    assert len(ratings) == 5133
    figures = agreement(ratings)
    assert figures["alpha"]["value"] == pytest.approx(0.1995, abs=5e-4)  # .199, cut off
    assert figures["alpha"]["low"] < 0.199 < figures["alpha"]["high"]
    assert figures["units"] == 2513  # of 2,514: one has a single label
    assert figures["items"] == 513


def test_agreement_by_hand() -> None:
    # units: 1 agree, 2 agree, 3 differ, 4 differ; the third labeler's single answer counts nowhere
    ratings = [
        Answer(u, u, who, v)
        for who, vs in (("ann", "xyxx"), ("bob", "xyyy"))
        for u, v in zip("1234", vs, strict=True)
    ]
    ratings.append(Answer("5", "5", "cat", "x"))
    figures = agreement(ratings)
    assert figures["raw"]["value"] == 0.5
    assert figures["pairs"] == 4
    # x and y are each half of the eight answers: kappa (.5 - .5) / .5, alpha 1 - .5 / (2 * 4 * 4 / (8 * 7))
    assert figures["kappa"]["value"] == pytest.approx(0)
    assert figures["alpha"]["value"] == pytest.approx(1 - 0.5 / (32 / 56))
    again = agreement([*ratings[:1], Answer("1", "1", "ann", "y"), *ratings[1:]])
    assert again["raw"]["value"] == 0.25  # ann changed her mind about 1, and the later answer stands
    unanimous = agreement([Answer("1", "1", who, "x") for who in "ab"])
    assert unanimous["raw"]["value"] == 1
    assert unanimous["alpha"]["value"] is None
    assert unanimous["raw"]["low"] < 0.25  # one pair of equal answers is no proof of agreement
    with pytest.raises(DataError, match="nothing was judged by two people"):
        agreement([Answer("1", "1", "ann", "x")])


def test_agreement_is_that_of_the_libraries() -> None:
    rng = np.random.default_rng(3)
    first = rng.choice(list("xyz"), 60, p=[0.5, 0.2, 0.3])
    second = np.where(rng.random(60) < 0.5, first, rng.choice(list("xyz"), 60))
    ratings = [
        Answer(str(i), str(i), who, v)
        for who, vs in (("ann", first), ("bob", second))
        for i, v in enumerate(vs)
    ]
    figures = agreement(ratings)
    table = pd.DataFrame([[ord(v) for v in vs] for vs in (first, second)])
    both = np.r_[first, second], np.r_[second, first]
    assert figures["alpha"]["value"] == pytest.approx(evalica.alpha(table).alpha)
    assert figures["kappa"]["value"] == pytest.approx(cohen_kappa_score(*both))


def test_agreement_of_rankings_by_slice() -> None:
    rows = []
    for i in range(40):
        week, bob = ("1", [2, 1]) if i % 2 else ("2", [1, 2])
        rows += [row("ann", [1, 2], f"p{i}", week=week), row("bob", bob, f"p{i}", week=week)]
    rows.append(row("ann", [1, 2], "alone", week="3"))
    by_week = agreement_by(rows, lambda r: r["week"])
    assert {week: figures["raw"]["value"] for week, figures in by_week.items()} == {"1": 0, "2": 1}
    assert agreement(answers(rows))["raw"]["value"] == 0.5
    assert {a.value for a in answers([row("ann", [1, 1])])} == {"tie"}


# ---- signals ----


def test_signals_flag_those_who_answer_by_position_in_haste_or_always_the_same() -> None:
    rng = np.random.default_rng(0)
    rows, gold = [], {}
    for i in range(60):
        order = [int(x) for x in rng.permutation(3)]
        prompt = f"p{i}"
        honest = [1, 2, 3]
        rows.append(row("careful", honest, prompt, shown_order=order, seconds=50))
        rows.append(row("usual", [1, 3, 2], prompt, shown_order=order, seconds=45))
        by_place = [order.index(k) + 1 for k in range(3)]
        rows.append(row("first", by_place, prompt, shown_order=order, seconds=60))
        rows.append(
            row("hasty", [int(x) + 1 for x in rng.permutation(3)], prompt, shown_order=order, seconds=5)
        )
        gold[prompt, tuple(rows[-1]["completions"])] = honest
    seen = signals(rows, gold)
    assert seen["careful"].gold_accuracy == 1
    assert seen["careful"].longer_rate == 1  # the first text of a row is the longest
    assert seen["careful"].flags == seen["usual"].flags == ()
    assert seen["usual"].gold_accuracy == pytest.approx(2 / 3)
    assert seen["first"].left_rate == seen["first"].constant_rate == 1
    assert [flag.split(" ")[0] for flag in seen["first"].flags][:2] == ["prefers", "gives"]
    assert any(flag.startswith("needs 5 s") for flag in seen["hasty"].flags)
    assert any("no better than chance" in flag for flag in seen["hasty"].flags)
    assert seen["hasty"].gold_pairs == 180
    # few rankings and missing columns flag nobody
    few = signals([row("ann", [1, 2], shown_order=None)])["ann"]
    assert (few.flags, few.left_rate, few.median_seconds, few.gold_accuracy) == ((), None, None, None)


# ---- weights ----


@pytest.mark.parametrize("method", ["dawid-skene", "bradley-terry"])
def test_weights_follow_ability_and_have_mean_one(method: Any) -> None:
    rng, rows = np.random.default_rng(6), []
    for i in range(120):
        order = [int(x) for x in rng.permutation(3)]
        for labeler in rng.choice(["good", "fair", "left", "good-2"], 2, replace=False):
            if labeler == "left":
                ranking = [order.index(k) + 1 for k in range(3)]
            elif rng.random() < (0.5 if labeler == "fair" else 0.05):
                ranking = [int(x) + 1 for x in rng.permutation(3)]
            else:
                ranking = [1, 2, 3]
            rows.append(row(str(labeler), ranking, f"p{i}", shown_order=order))
    rows.append(row("new", [1, 2, 3], "alone"))
    weights = labeler_weights(rows, method)
    assert weights["good"] > weights["fair"] + 0.2
    assert weights["fair"] > weights["left"] + 0.2
    assert weights["left"] < 0.2
    assert weights["left"] < weights["new"] < weights["good"]
    assert np.mean([weights[r["labeler_id"]] for r in rows]) == pytest.approx(1)
    with pytest.raises(DataError, match="collect overlapping"):
        labeler_weights(rows[-1:], method)
