"""Verdicts in the forms in which models write them, and replies that hold none."""

import json

import pytest
from chat_server import completion, make, pairs, responses

from rlhf.data.errors import DataError
from rlhf.judges.verdicts import read_verdict

# {} is A, B or tie
FORMS = {
    "line": "Clear enough.\nVerdict: {}",
    "bold": "Fine.\n**Verdict: {}**",
    "bold label": "**Verdict:** {}",
    "brackets": "So:\n[[{}]]",
    "verdict in brackets": "Verdict: [[{}]]",
    "final": "Final verdict: {}",
    "response": "Verdict: Response {}",
    "bold response": "Final verdict - **Assistant {}**",
    "json": '{{"verdict": "{}", "reason": "clear"}}',
    "fenced json": '```json\n{{"reason": "x", "verdict": "{}"}}\n```',
    "json winner": 'Here you are: {{"winner": "{}"}}',
    "json in quotes of Python": "{{'preferred': 'Response {}'}}",
    "sentence": "Verdict: {}.",
    "reason behind": "Verdict: {} because it is not evasive",
    "reason in the next sentence": "Verdict: {}. The other one rambles on about A and B.",
    "heading": "### Verdict\n{}",
    "heading with it": "## Verdict: {}",
    "after thinking": "<think>Maybe Verdict: B\nVerdict: A\n</think>\nVerdict: {}",
    "after thinking that the template opened": "Hm. Verdict: B? Verdict: A?</think>\n\nVerdict: {}",
    "better": "Verdict: {} is better",
    "is": "My verdict is {}.",
    "box": "Verdict: $\\boxed{{{}}}$",
    "box alone": "Therefore \\boxed{{\\text{{{}}}}}",
    "in a line": "Response A is clearer. Verdict: {}",
    "quoted": "> Verdict: {}",
    "in quotes": "Verdict: “{}”",
    "parentheses": "Verdict: ({})",
    "dash": "Verdict - {}",
    "wide colon": "Verdict：{}",
    "tag": "<verdict>{}</verdict>",
    "table": "| Verdict | {} |",
    "no blank": "Verdict:{}",
    "echo": "End with one line, exactly one of:\nVerdict: A\nVerdict: B\nVerdict: tie\n\nVerdict: {}",
    "echo in a line": "One of: Verdict: A, Verdict: B, Verdict: tie. Verdict: {}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verdict", ["A", "B", "tie"])
def test_a_verdict_is_read_in_every_form(form, verdict):
    assert read_verdict(FORMS[form].format(verdict)) == verdict
    if verdict != "tie" or "sentence" not in form:
        assert read_verdict(FORMS[form].format(verdict.lower())) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Both are good, but overall,\nResponse B is better.", "B"),
        ("So A wins", "A"),
        ("Verdict: it's a tie", "tie"),
        ("Verdict: a tie.", "tie"),
        ("The verdict: A wins", "A"),
        # what says nothing, or two things
        ("I cannot compare these.", None),
        ("Verdict: both", None),
        ("Verdict: neither", None),
        ("Verdict: C", None),
        ("Verdict: Apple", None),
        ("Verdict: A or B", None),
        ("Verdict: A/B", None),
        ("Verdict: A, B", None),
        ("Verdict: A > B", None),
        ("I choose [[B]] over [[A]]", None),
        ("[[A]]\nVerdict: B", None),
        ("Verdict: A is not better than B", None),
        ("Verdict: A is worse", None),
        ("Verdict: a tough call", None),
        ("My verdict. A response should be short.", None),
        ("No verdict. A and B are alike.", None),
        ("B is better in one way.\nI am not sure.", None),
        ("Verdict: A\nVerdict: B\nVerdict: tie", None),
        ("<think>Verdict: B", None),
        ("<think>Verdict: B</think>", None),
        ("A", None),
        ("", None),
    ],
)
def test_only_what_is_clear_is_a_verdict(reply, verdict):
    assert read_verdict(reply) == verdict


def test_replies_in_parts_are_one_text(server, tmp_path):
    parts = [{"type": "text", "text": "Fine.\n"}, {"type": "image"}, {"type": "text", "text": "Verdict: tie"}]
    server.behave = lambda request, attempt: (200, {}, completion(parts))
    assert [row["preferred"] for row in make(server, tmp_path).judge(pairs(2))] == ["tie", "tie"]


def test_a_model_that_calls_its_limit_otherwise_is_asked_so(server, tmp_path):
    def thinking(request, attempt):
        if "max_tokens" in request:
            said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {}, json.dumps({"error": {"message": said}})
        assert request["max_completion_tokens"] == 900
        return 200, {}, completion("Verdict: tie")

    server.behave = thinking
    judge = make(server, tmp_path, reply_tokens=900, concurrency=1)
    assert len(judge.judge(pairs(3))) == 3
    assert len(server.requests) == 7  # it is told once


def test_a_model_that_takes_no_temperature_is_one_line_and_a_setting(server, tmp_path):
    def strict(request, attempt):
        if "temperature" in request:
            return 400, {}, json.dumps({"error": {"message": "'temperature' does not support 0.0"}})
        return 200, {}, completion("Verdict: tie")

    server.behave = strict
    with pytest.raises(
        DataError, match=r"evaluate\.llm\.temperature: null leaves the temperature out"
    ) as error:
        make(server, tmp_path).judge(pairs(1))
    assert "\n" not in str(error.value)
    assert len(make(server, tmp_path, temperature=None).judge(pairs(1))) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "model overloaded"}}, "status 200 with an error .*model overloaded"),
        ({"choices": []}, "an answer that is no chat completion"),
    ],
)
def test_an_error_that_comes_as_an_answer_is_one_line(body, said, server, tmp_path):
    server.behave = lambda request, attempt: (200, {}, json.dumps(body))
    with pytest.raises(DataError, match=said) as error:
        make(server, tmp_path, attempts=2).judge(pairs(1))
    assert "\n" not in str(error.value)


def test_the_texts_that_are_judged_are_no_verdict(server, tmp_path):
    server.behave = lambda request, attempt: (200, {}, completion(" ".join(responses(request))))
    judge = make(server, tmp_path)
    assert judge.judge(pairs(2)) == []
    assert judge.usage.unjudged == 2
