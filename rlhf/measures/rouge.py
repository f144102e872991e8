"""ROUGE: how much of the words and word order of references an output has.

ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as F1 of stemmed words, computed by the package `rouge-score`. Where a
prompt has several references the best match counts, as in SciTLDR (Cachola et al. 2020). ROUGE knows no
meaning: a good summary in other words scores low, and a false one in the same words high.

The package knows the letters a to z alone, so that two equal texts in another script would share nothing.
Here words are letters of any script, and the characters of scripts that write no spaces; ASCII texts score
what they score there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEASURES = ("rouge1", "rouge2", "rougeL")
HUMAN = "human"  # another reference of the same prompt, scored like an output
Scores = dict[str, np.ndarray]  # measure -> [prompts]


# Thai, Lao, Burmese, Khmer, kana and Han characters: their scripts write no spaces between words.
_SPACELESS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORDS = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")


class _Tokenizer:
    """The words of a text: of ASCII those of `rouge-score`, stemmed; else those of any script."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._of_ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        return [stem for word in _WORDS.findall(text.lower()) for stem in self._stems(word)]

    def _stems(self, word: str) -> list[str]:
        return self._of_ascii.tokenize(word) if word.isascii() else [word]


def rouge(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """F1 of each text with the best of its references, 0..1.

    Args:
        texts: one a prompt.
        references: at least one for each text.
    """
    from rouge_score.rouge_scorer import RougeScorer  # here, because it loads nltk

    scorer = RougeScorer(list(MEASURES), tokenizer=_Tokenizer())
    scores: dict[str, list[float]] = {name: [] for name in MEASURES}
    for text, of_prompt in zip(texts, references, strict=True):
        best = scorer.score_multi(of_prompt, text)
        for name in MEASURES:
            scores[name].append(best[name].fmeasure)
    return {name: np.array(values) for name, values in scores.items()}


def rouge_table(
    outputs: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    pairs: Sequence[tuple[str, str]],
    confidence: float,
) -> dict[str, Any]:
    """What stands under `rouge` in metrics/evaluation.json.

    Where prompts have several references, the last of each stands for a person who answers, and is scored as
    `HUMAN` with the others; on those prompts everybody is scored with the others, so that nobody has more
    chances to match.

    Args:
        outputs: policy -> a text a prompt.
        references: of each prompt, at least one.
        pairs: policies to be compared, each with a baseline.
        confidence: coverage of the intervals, 0..1.

    Returns:
        `n`; `policies`: name -> measure -> `mean`, `low`, `high`; `comparisons`: `a_vs_b` -> measure ->
        `difference`, `low`, `high` of the means on the same prompts; `human`, where a prompt has several
        references: its `n`, and `policies` on those prompts, `HUMAN` among them.
    """
    scored = {name: rouge(texts, references) for name, texts in outputs.items()}
    table: dict[str, Any] = {"n": len(references), "policies": _means(scored, confidence)}
    table["comparisons"] = {
        f"{after}_vs_{before}": {
            name: _interval(scored[after][name] - scored[before][name], confidence, "difference")
            for name in MEASURES
        }
        for after, before in pairs
        if after in scored and before in scored
    }
    several = [place for place, texts in enumerate(references) if len(texts) > 1]
    if several:
        others = [references[place][:-1] for place in several]
        texts = {name: [texts[place] for place in several] for name, texts in outputs.items()}
        texts[HUMAN] = [references[place][-1] for place in several]
        again = {name: rouge(of_name, others) for name, of_name in texts.items()}
        table["human"] = {"n": len(several), "policies": _means(again, confidence)}
    return table


def _means(scored: Mapping[str, Scores], confidence: float) -> dict[str, dict[str, dict[str, float]]]:
    return {
        policy: {name: _interval(values, confidence, "mean") for name, values in scores.items()}
        for policy, scores in scored.items()
    }


def _interval(values: np.ndarray, confidence: float, name: str) -> dict[str, float]:
    """The mean of independent values with Student's interval; of one value it is the value alone."""
    from scipy.special import stdtrit  # Student's t; scipy.stats is slow to load

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {name: mean, "low": float("nan"), "high": float("nan")}
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(n))
    return {name: mean, "low": mean - half, "high": mean + half}
