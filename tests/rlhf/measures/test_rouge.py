"""ROUGE against values worked out by hand, and people beside the policies."""

from __future__ import annotations

import pytest

from rlhf.measures.rouge import MEASURES, rouge, rouge_table


def test_scores_are_those_worked_out_by_hand() -> None:
    # Output: police kill the gunman; reference: police killed the gunman (Lin 2004). Stemmed they are equal.
    scores = rouge(
        ["police kill the gunman", "the gunman kill police", ""], [["police killed the gunman"]] * 3
    )
    assert scores["rouge1"].tolist() == [1, 1, 0]
    # Turned round, one of three pairs of words is shared (the gunman), and two words are in order.
    assert scores["rouge2"].tolist() == pytest.approx([1, 1 / 3, 0])
    assert scores["rougeL"].tolist() == pytest.approx([1, 1 / 2, 0])
    # 2 of 3 words of the output, and 2 of the 5 of the reference: F1 = 2 * 2 / (3 + 5).
    assert rouge(["cats like milk"], [["cats and dogs like water"]])["rouge1"].tolist() == [0.5]


def test_words_are_those_of_the_package_in_ascii_and_of_every_script_elsewhere() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    text, other = (
        "State-of-the-art: we're running 3.5x faster_runs!",
        "It ran 3.5x faster; states of the arts.",
    )
    theirs = RougeScorer(list(MEASURES), use_stemmer=True).score(other, text)
    assert {name: theirs[name].fmeasure for name in MEASURES} == {
        name: values[0] for name, values in rouge([text], [[other]]).items()
    }
    # Two of three words, and six of eight characters.
    assert rouge(["Größe schätzen lernen"], [["größe schätzen üben"]])["rouge1"].tolist() == [2 / 3]
    assert rouge(["我们提出一种方法"], [["我们提出新的方法"]])["rouge1"].tolist() == [6 / 8]
    assert all(rouge(["ภาษาไทย"], [["ภาษาไทย"]])[name].tolist() == [1] for name in MEASURES)


def test_the_best_reference_counts() -> None:
    many = rouge(["a b c d"], [["x y", "a b c d", "a b"]])
    assert all(many[name].tolist() == [1] for name in MEASURES)


def test_policies_are_compared_on_the_same_prompts_and_beside_a_person() -> None:
    references = [["a b", "a b c"], ["d e"], ["f g", "f h"], ["i j"]]
    outputs = {"pretrained": ["z", "z", "f", "z"], "sft": ["a b", "d e", "f g", "z"]}
    table = rouge_table(outputs, references, [("ppo", "sft"), ("sft", "pretrained")], 0.95)
    assert table["n"] == 4
    assert table["policies"]["sft"]["rouge1"]["mean"] == 0.75
    # Student's interval of 1, 1, 1, 0: .75 +- 3.182 * .5 / 2
    assert table["policies"]["sft"]["rouge1"]["low"] == pytest.approx(0.75 - 3.182446 * 0.25, abs=1e-5)
    # 1, 1, 1/3, 0 without f's 2/3: the differences of the four prompts
    difference = table["comparisons"]["sft_vs_pretrained"]["rouge1"]
    assert difference["difference"] == pytest.approx((1 + 1 + 1 / 3 + 0) / 4)
    assert set(table["comparisons"]) == {"sft_vs_pretrained"}
    # Of the prompts that have two: the person wrote "a b c" and "f h", which are matched with "a b", "f g".
    assert table["human"]["n"] == 2
    people = table["human"]["policies"]["human"]
    assert people["rouge1"]["mean"] == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert table["human"]["policies"]["sft"]["rouge1"]["mean"] == 1
    alone = rouge_table({"sft": ["a"]}, [["a"]], [], 0.95)
    assert "human" not in alone
    assert alone["policies"]["sft"]["rougeL"]["mean"] == 1
