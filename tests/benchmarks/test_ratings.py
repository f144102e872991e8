"""Rates from human ratings, and people against people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import ratings
from benchmarks import reference_control as control
from benchmarks.ratings import read_ratings
from benchmarks.reference_control import overlap, overlap_judge, read_references
from rlhf.data.errors import DataError
from rlhf.judges.judge import ScoringJudge

DATA = ROOT.parent / "shared" / "data"


def needs(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there")
    return DATA / name


def row(article, system, ratings_of_row, annotators=None):
    annotators = list(range(len(ratings_of_row))) if annotators is None else annotators
    return {
        "id": article,
        "system": system,
        "annotators": annotators,
        "prompts": {"overall": {"human": ratings_of_row}},
    }


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_published_ratings_give_their_known_rates():
    result = ratings.evaluate(read_ratings(needs("cnndm_human_ratings")))
    rates = {name: round(row["rate"], 3) for name, row in result["systems"].items()}
    assert rates == {"pointer": 0.501, "ml+rl": 0.345, "ml": 0.287, "seq2seq": 0.206}
    assert list(rates) == ["pointer", "ml+rl", "ml", "seq2seq"]
    assert round(result["agreement"]["alpha"], 3) == 0.199
    assert round(result["reference_mean_rating"], 3) == 0.496
    assert [round(row["mean_rating"], 3) for row in result["systems"].values()] == [
        0.501,
        0.198,
        0.125,
        -0.087,
    ]
    assert [row["n"] for row in result["systems"].values()] == [500, 501, 499, 500]
    for system in result["systems"].values():
        assert system["low"] < system["rate"] < system["high"]
        assert system["wins"] + system["ties"] + system["losses"] == system["n"]
    low, high = result["agreement"]["alpha_interval"]
    assert low < 0.199 < high < low + 0.1


def test_a_system_is_preferred_by_mean_rating_and_equal_means_are_a_tie(tmp_path, capsys):
    rows = []
    for article, mine in enumerate([[1, 1], [0, 1], [0, 0], [-1, 0]]):
        rows += [row(str(article), "reference", [0, 1]), row(str(article), "ours", mine)]
    rows += [row("0", "elsewhere", [1]), row("9", "ours", [1]), row("1", "ours", [1, 1], annotators=[7, 8])]
    path = write(tmp_path / "lqual.jsonl", rows)
    assert ratings.main([str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    ours = result["systems"]["ours"]  # article 1 has four ratings in two rows: mean 3/4 against 1/2
    assert (ours["rate"], ours["n"], ours["wins"], ours["ties"], ours["losses"]) == (0.5, 4, 2, 0, 2)
    assert result["systems"]["elsewhere"]["n"] == 1
    assert result["judge"]["kind"] == "human"
    assert ratings.main([str(path)]) == 0
    table = capsys.readouterr().out
    assert "equal mean ratings are a tie" in table
    assert "Krippendorff's alpha" in table
    assert ratings.main([str(path), "--reference", "ours"]) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("1", "a", [1])], "no rows of system 'reference'"),
        ([row("1", "reference", [1]), row("2", "a", [1])], "no article has both"),
        ([{"id": "1"}], "row 1: needs id, system"),
        ([row("1", "a", [1, 2], annotators=[0])], "row 1: needs one rating an annotator"),
        ([row("1", "a", [1, 2], annotators="01")], "row 1: needs one rating an annotator"),
        ([row("1", "a", [1, True])], "row 1: ratings must be numbers"),
        ([row("1", "a", ["good"])], "row 1: ratings must be numbers"),
        ([{**row("1", "a", [1]), "prompts": {"grammar": {}}}], "no ratings on 'overall'; it has grammar"),
        ([], "the file is empty"),
    ],
)
def test_unusable_ratings_end_in_one_line(tmp_path, capsys, rows, message):
    assert ratings.main([str(write(tmp_path / "ratings.jsonl", rows))]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def rated(article, system, annotators, values):
    return {
        "id": article,
        "system": system,
        "annotators": annotators,
        "prompts": {"overall": {"human": values}},
    }


def test_a_row_for_each_annotator_says_the_same_as_one_for_all(tmp_path, capsys):
    texts = [("a", "reference", [3, 2]), ("a", "m", [3, 4]), ("b", "reference", [1, 1]), ("b", "m", [1, 2])]
    files = {
        "whole": [rated(*text, ["w1", "w2"], values) for *text, values in texts],
        "apart": [
            rated(*text, [who], [value])
            for *text, values in texts
            for who, value in zip(("w1", "w2"), values, strict=True)
        ],
        "alone": [rated(*text, ["w1"], values[:1]) for *text, values in texts],
    }
    said = {}
    for name, rows in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert ratings.main([str(path)]) == 0
        said[name] = capsys.readouterr().out
    assert said["whole"] == said["apart"]
    assert "2 annotators, 4 texts: raw agreement 0.25" in said["apart"]
    assert "No text was rated by two annotators" in said["alone"]


def test_commands_end_in_one_line_without_a_file():
    for module in ("benchmarks.ratings", "benchmarks.reference_control"):
        done = subprocess.run(
            [sys.executable, "-m", module, "nowhere.jsonl"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == done.stderr.splitlines()[0] + "\n"
        assert "nowhere.jsonl: no such file" in done.stderr


def test_people_against_people_on_the_references_of_scitldr():
    references = read_references(needs("scitldr_a"))
    assert len(references) == 618
    assert {len(texts) for texts in references.values()} == {2, 3, 4}
    result = control.control(references, overlap_judge())
    lot, others = result["pairings"]["by lot"], result["pairings"]["others"]
    assert lot["low"] < 0.5 < lot["high"]
    assert (lot["n"], lot["asked"]) == (618, 618)
    assert others["high"] < 0.5  # authors write with the words of their abstract, reviewers with their own
    assert 18 < others["reference_words"] < 20
    assert 0.2 < lot["overlap"] < 0.3


def test_a_control_of_symmetric_pairs_is_half_for_any_taste_and_shows_a_liking_for_the_position(tmp_path):
    rows = [
        {"prompt": f"prompt {i}", "completion": text}
        for i in range(400)
        for text in (f"first answer {i}", f"a longer second answer {i}", f"third {i}")
    ]
    references = read_references(write(tmp_path / "demonstrations.jsonl", rows))
    length = ScoringJudge("longest", "model", lambda prompts, texts: [len(text) for text in texts])
    result = control.control(references, length)["pairings"]
    assert result["by lot"]["low"] < 0.5 < result["by lot"]["high"]
    assert 0.4 < result["others"]["rate"] < 0.6  # longer than the first in one of two

    scores = iter([0.0] * 400 + [1.0] * 400 + [0.0] * 400 + [1.0] * 400)
    position = ScoringJudge("second", "model", lambda prompts, texts: [next(scores) for _ in texts])
    result = control.control(references, position)
    assert result["pairings"]["by lot"]["rate"] == 1.0
    assert "misses 0.5" in control.show(result)


def test_control_command(tmp_path, capsys):
    rows = [{"source": ["One two three."], "target": ["one two", "four five", "one two "]}]
    rows += [{"source": ["Six."], "target": ["only one"]}]
    path = write(tmp_path / "test.jsonl", rows)
    assert read_references(path) == {"One two three.": ["one two", "four five"]}
    assert control.main([str(tmp_path), "--json"]) == 0
    others = json.loads(capsys.readouterr().out)["pairings"]["others"]
    assert (others["rate"], others["n"], others["overlap"]) == (0.0, 1, 0.0)
    assert control.main([str(path)]) == 0
    assert "word-overlap" in capsys.readouterr().out
    for arguments, message in [
        (["--judge", "oracle"], "no judge 'oracle'"),
        (["--judge", "llm:http://127.0.0.1:1/v1"], "with --model"),
    ]:
        assert control.main([str(path), *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(DataError, match="no prompt has two different references"):
        read_references(write(tmp_path / "one.jsonl", rows[1:]))
    with pytest.raises(DataError, match="row 1: source and target must be lists"):
        read_references(write(tmp_path / "bad.jsonl", [{"source": "text", "target": ["a"]}]))


def test_overlap_is_rouge_1():
    assert overlap("The cat sat", "the cat") == pytest.approx(0.8)
    assert overlap("a a b", "a c") == pytest.approx(0.4)
    assert overlap("x", "y") == 0 == overlap("", "")
