"""Bradley-Terry with labeler ability and position bias.

P(labeler a prefers i to j) = sigmoid(beta_a (s_i - s_j) + gamma_a side), side +1 where i was shown first, -1
where j was (Chen et al. 2013, "Pairwise ranking aggregation in a crowdsourced setting", with a bias term).
A beta_a near or below 0 exposes a spammer, a large gamma_a somebody who answers by position.

Abilities and biases are fitted first, with the gap s_i - s_j of each pair integrated out, as item response
models do (Bock and Aitkin 1981): with few votes per pair, scores fitted together with them bend to every vote
and make everyone look able. Scores follow from the abilities. Normal priors say what the scale is and which
of two mirror images is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from labeling.quality.votes import Votes

NODES = 15  # of the Gauss-Hermite quadrature over a pair's gap


@dataclass(frozen=True)
class BradleyTerry:
    """What the votes say about outputs and labelers.

    Attributes:
        score: s, higher is better, in logits for a labeler of ability 1; 0 for an output without votes,
            [outputs].
        ability: beta, [labelers].
        left_bias: gamma, in logits, [labelers].
    """

    score: np.ndarray
    ability: np.ndarray
    left_bias: np.ndarray


def fit(
    votes: Votes,
    *,
    score_sd: float = 1.5,
    ability_mean: float = 1.0,
    ability_sd: float = 1.0,
    bias_sd: float = 1.0,
) -> BradleyTerry:
    """Fit by L-BFGS; ties count as half a vote for either side.

    Args:
        votes: votes on pairs; a pair with a single vote says next to nothing about its labeler.
        score_sd, ability_sd, bias_sd: standard deviations of the normal priors; small ones pull harder to the
            mean.
        ability_mean: mean of the prior of beta; above 0, because labelers mostly mean well.
    """
    ability, bias = _labelers(votes, score_sd, ability_mean, ability_sd, bias_sd)
    return BradleyTerry(_scores(votes, ability, bias, score_sd), ability, bias)


def _labelers(
    votes: Votes, score_sd: float, ability_mean: float, ability_sd: float, bias_sd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Abilities and biases that make the votes likely, whatever the gaps are."""
    people, pair, who = len(votes.labelers), votes.pair, votes.labeler
    if not len(votes):
        return np.full(people, ability_mean), np.zeros(people)
    nodes, mass = np.polynomial.hermite_e.hermegauss(NODES)
    gaps, log_mass = nodes * score_sd * np.sqrt(2), np.log(mass / mass.sum())
    by_pair, starts = np.argsort(pair, kind="stable"), np.r_[0, np.cumsum(np.bincount(pair))[:-1]]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        ability, bias = np.split(x, 2)
        logit = ability[who, None] * gaps + (bias[who] * votes.side)[:, None]  # [votes, nodes]
        vote = votes.preferred[:, None]
        each = vote * logit - np.logaddexp(0, logit)
        together = log_mass + np.add.reduceat(each[by_pair], starts)  # [pairs, nodes]
        total = logsumexp(together, axis=1)
        likely = np.exp(together - total[:, None])[pair]  # which gap, given the votes
        error = likely * (expit(logit) - vote)
        value = ((bias / bias_sd) ** 2).sum() / 2 + (((ability - ability_mean) / ability_sd) ** 2).sum() / 2
        gradient = np.concatenate(
            [
                np.bincount(who, error @ gaps, people) + (ability - ability_mean) / ability_sd**2,
                np.bincount(who, error.sum(1) * votes.side, people) + bias / bias_sd**2,
            ]
        )
        return value - total.sum(), gradient

    start = np.concatenate([np.full(people, ability_mean), np.zeros(people)])
    ability, bias = np.split(minimize(loss, start, jac=True, method="L-BFGS-B").x, 2)
    return ability, bias


def _scores(votes: Votes, ability: np.ndarray, bias: np.ndarray, score_sd: float) -> np.ndarray:
    """The most likely scores, given the labelers: a convex problem."""
    items, first, second = len(votes.outputs), votes.first, votes.second
    slope, offset = ability[votes.labeler], bias[votes.labeler] * votes.side

    def loss(score: np.ndarray) -> tuple[float, np.ndarray]:
        logit = slope * (score[first] - score[second]) + offset
        value = (np.logaddexp(0, logit) - votes.preferred * logit).sum() + (score**2).sum() / score_sd**2 / 2
        pull = (expit(logit) - votes.preferred) * slope
        return value, np.bincount(first, pull, items) - np.bincount(second, pull, items) + score / score_sd**2

    return minimize(loss, np.zeros(items), jac=True, method="L-BFGS-B").x
