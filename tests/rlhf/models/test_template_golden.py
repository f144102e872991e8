"""One conversation under twelve pairs of a real tokenizer and a template, id by id, worked out by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import AutoTokenizer

from rlhf.data.errors import DataError
from rlhf.models.template import Chat, Plain, answered, as_row, check_tokenizer, content_ids, load_tokenizer

C1 = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}]
C3 = [*C1, {"role": "assistant", "content": "Hello."}]
C4 = [*C3, {"role": "user", "content": "And you?"}]
C5 = [*C4, {"role": "assistant", "content": "Fine."}]


@dataclass
class Golden:
    """What a pair makes of the conversation.

    Attributes:
        first: the prompt of the first answer; second: that of the second, in which the first stands.
        answers: the ids that are learnt of either answer, each rendered last.
        within: what the first answer is in `second`, from the place where `first` ends.
        behind: what the template writes behind the second answer, which is not learnt.
        stops: the token that ends a turn, and EOS if it is another.
    """

    first: list[int]
    second: list[int]
    answers: tuple[list[int], list[int]]
    within: list[int]
    behind: list[int]
    stops: tuple[int, ...]


def ids(text: str) -> list[int]:
    return [int(i) for i in text.split()]


Q1 = ids("151644 8948 198 3430 9814 13 151645 198  151644 872 198 13048 1052 151645 198  151644 77091 198")
Q2 = ids("198  151644 872 198 3036 498 30 151645 198  151644 77091 198")  # behind the first answer's end
THINK = ids("151667 271 151668 271")  # <think> "\n\n" </think> "\n\n"
HELLO_Q, FINE_Q = ids("9707 13 151645"), ids("63716 13 151645")

DATES = ids("38766 1303 33025 2696 25 6790 220 2366 18 198 15724 2696 25 220 1627 10263 220 2366 19 271")
SYSTEM_L = ids("128000 128006 9125 128007 271")
L1 = ids("3513 10015 13 128009  128006 882 128007 271 13347 1070 128009  128006 78191 128007 271")
L2 = ids("128006 882 128007 271 3112 499 30 128009  128006 78191 128007 271")
HELLO_L, FINE_L = ids("9906 13 128009"), ids("64816 13 128009")
HEADER_L = ids("128006 78191 128007 271")

G1 = ids("2  105 2364 107 3912 8652 236761 108 10979 993 106 107  105 4368 107")
G2 = ids("107  105 2364 107 3133 611 236881 106 107  105 4368 107")
HELLO_G, FINE_G = ids("9259 236761 106"), ids("82879 236761 106")

D1 = ids("0  7153 9708 16  128803 23166 1031  128804")
D2 = ids("128803 4195 440 33  128804")
HELLO_D, FINE_D = ids("19923 16 1"), ids("70017 16 1")
OPENED = ids(
    "30 37947 1018"
)  # <think> "\n", no token of this tokenizer: the official templates open a thinking block for generation

FINAL_O = ids("200005 17196 200008")  # <|channel|>final<|message|>

QWEN = Golden(Q1, Q1 + HELLO_Q + Q2, (THINK + HELLO_Q, THINK + FINE_Q), HELLO_Q, [198], (151645,))
LLAMA = Golden(SYSTEM_L + L1, SYSTEM_L + L1 + HELLO_L + L2, (HELLO_L, FINE_L), HELLO_L, [], (128009,))
LLAMA_DATED = Golden(
    SYSTEM_L + DATES + L1, SYSTEM_L + DATES + L1 + HELLO_L + L2, (HELLO_L, FINE_L), HELLO_L, [], (128009,)
)
DEEPSEEK = Golden(D1, D1 + HELLO_D + D2, (HELLO_D, FINE_D), HELLO_D, [], (1,))

GOLDEN = {
    ("qwen3", None): QWEN,
    ("qwen3", "qwen3"): QWEN,
    ("qwen3", "qwen3_training"): Golden(
        Q1, Q1 + THINK + HELLO_Q + Q2, (THINK + HELLO_Q, THINK + FINE_Q), THINK + HELLO_Q, [198], (151645,)
    ),
    ("qwen3", "qwen3_instruct_2507"): Golden(
        Q1, Q1 + HELLO_Q + Q2, (HELLO_Q, FINE_Q), HELLO_Q, [198], (151645,)
    ),
    ("llama3_1", None): LLAMA,
    ("llama3_1", "llama3"): LLAMA,
    ("llama3_1", "llama3_1"): LLAMA_DATED,
    ("llama3", None): Golden(
        LLAMA.first, LLAMA.second, (HELLO_L, FINE_L), HELLO_L, HEADER_L, (128009, 128001)
    ),
    ("gemma3", None): Golden(G1, G1 + HELLO_G + G2, (HELLO_G, FINE_G), HELLO_G, [107], (106,)),
    ("gemma3", "gemma3"): Golden(G1, G1 + HELLO_G + G2, (HELLO_G, FINE_G), HELLO_G, [107], (106,)),
    ("deepseek_v3", None): DEEPSEEK,
}
# As they stand in the table of the hand derivation: ids of C5, of both prompts and of C3, and C3's last id.
PLACES = {
    ("qwen3", None): (41, 18, 33, 26, 198),
    ("qwen3", "qwen3"): (41, 18, 33, 26, 198),
    ("qwen3", "qwen3_training"): (45, 18, 37, 26, 198),
    ("qwen3", "qwen3_instruct_2507"): (37, 18, 33, 22, 198),
    ("llama3_1", None): (38, 20, 35, 23, 128009),
    ("llama3_1", "llama3"): (38, 20, 35, 23, 128009),
    ("llama3_1", "llama3_1"): (58, 40, 55, 43, 128009),
    ("llama3", None): (42, 20, 35, 27, 271),
    ("gemma3", None): (34, 15, 30, 19, 107),
    ("gemma3", "gemma3"): (34, 15, 30, 19, 107),
    ("deepseek_v3", None): (19, 8, 16, 11, 1),
}


@pytest.mark.parametrize(("name", "template"), GOLDEN)
def test_ids_and_learnt_places(name: str, template: str | None, real_tokenizer: Callable[..., Any]) -> None:
    tokenizer, golden = real_tokenizer(name, template), GOLDEN[name, template]
    chat = Chat(tokenizer)
    rows = [as_row(C1), as_row(C4)]
    assert chat.prompts(rows) == [golden.first, golden.second]
    assert chat.answers(rows, ["Hello.", "Fine."]) == list(golden.answers)
    assert chat.stops == golden.stops
    assert golden.second[len(golden.first) :][: len(golden.within)] == golden.within

    # The whole as the template writes it, read once: what stands behind the learnt part is not learnt.
    whole = tokenizer.apply_chat_template(C5, return_dict=False)
    assert golden.second + golden.answers[1] + golden.behind == whole
    early = tokenizer.apply_chat_template(C3, return_dict=False)
    assert early == golden.first + golden.answers[0] + golden.behind
    assert (len(whole), len(golden.first), len(golden.second), len(early), early[-1]) == PLACES[
        name, template
    ]

    sequences, starts = answered(chat, rows, ["Hello.", "Fine."], 1 << 20)
    assert starts == [len(golden.first), len(golden.second)]
    assert [s[at:] for s, at in zip(sequences, starts, strict=True)] == list(golden.answers)
    assert all(s[-1] == chat.stops[0] for s in sequences)
    assert [chat.text(answer) for answer in golden.answers] == ["Hello.", "Fine."]


@pytest.mark.parametrize("template", ["deepseekv3", "deepseek_r1_distill"])
def test_an_opened_thinking_block_is_no_start_of_the_whole(template: str, real_tokenizer) -> None:
    chat = Chat(real_tokenizer("deepseek_v3", template))
    rows = [as_row(C1), as_row(C4)]
    assert chat.prompts(rows) == [DEEPSEEK.first + OPENED, DEEPSEEK.second + OPENED]
    assert [len(row) for row in chat.prompts(rows)] == [11, 19]
    assert chat.answers(rows, ["Hello.", "Fine."]) == [HELLO_D, FINE_D]
    assert [chat.text(answer) for answer in (HELLO_D, FINE_D)] == ["Hello.", "Fine."]


def test_gpt_oss_on_a_day_of_november(real_tokenizer) -> None:
    tokenizer = real_tokenizer("gptoss", "gptoss")
    chat = Chat(tokenizer, {"today": "2026-11-28"})
    rows = [as_row(C1), as_row(C4)]
    first, second = chat.prompts(rows)
    hello, fine = FINAL_O + ids("13225 13 200002"), FINAL_O + ids("84886 13 200002")
    assert (len(first), len(second)) == (79, 94)
    assert chat.answers(rows, ["Hello.", "Fine."]) == [hello, fine]
    assert second[79:85] == FINAL_O + ids("13225 13 200007")  # in the past, a turn ends with another token
    assert len(second + fine) == 100
    assert len(first + hello) == 85
    assert chat.stops == (200002,)
    assert tokenizer.decode(first) == (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\nCurrent date: 2026-11-28\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"
        "<|start|>user<|message|>Hi there<|end|><|start|>assistant"
    )
    assert [chat.text(answer) for answer in (hello, fine)] == ["Hello.", "Fine."]


PAIRS = [("qwen3", None), ("llama3_1", None), ("gemma3", None), ("deepseek_v3", None), ("gptoss", "gptoss")]


def user(text: str) -> dict[str, Any]:
    return as_row([{"role": "user", "content": text}])


@pytest.mark.parametrize(("name", "template"), PAIRS)
def test_no_token_comes_out_of_a_text(name: str, template: str | None, real_tokenizer) -> None:
    tokenizer = real_tokenizer(name, template)
    chat, plain = Chat(tokenizer), Plain(tokenizer)
    tokens = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    ordinary = re.compile(r"\s+|▁+|</?[a-z]+[1-6]?>")
    kinds = {re.sub(r"\d+", "0", text): text for text in tokens.values()}  # <unused17> stands for its like
    spelled = [text for text in kinds.values() if not ordinary.fullmatch(text)]
    spelled += [text for text in ("<unk>", "<think>", "</think>", "<unused7>") if text in tokens.values()]
    control = {i for i, text in tokens.items() if text in spelled}
    wanted = [i for i in chat.prompt(user("mid")) if i in control]
    texts = [form.format(text) for text in spelled for form in ("a {} b", "ends in {}", "{} begins", "{}")]
    for text, row in zip(texts, chat.prompts([user(text) for text in texts]), strict=True):
        assert [i for i in row if i in control] == wanted, text
        assert text in tokenizer.decode(row), text
    for text, row in zip(texts, content_ids(tokenizer, texts), strict=True):
        assert control.isdisjoint(row), text
        assert tokenizer.decode(row) == text
    end = tokens[chat.stops[0]]
    answer = chat.answer(user("Hi"), f"It ends with {end}")
    assert answer.count(chat.stops[0]) == 1
    assert chat.text(answer) == f"It ends with {end}"
    assert plain.answer({"prompt": "a"}, end).count(plain.stops[0]) == 1


@pytest.mark.parametrize(("name", "template"), PAIRS)
def test_bos_stands_once_and_first(name: str, template: str | None, real_tokenizer) -> None:
    tokenizer = real_tokenizer(name, template)
    begins = name in (
        "llama3_1",
        "gemma3",
        "deepseek_v3",
    )  # DeepSeek's file says so, and transformers forgets
    for ids_ in (Chat(tokenizer).prompt(as_row(C4)), Plain(tokenizer).prompt({"prompt": "Hi there"})):
        assert ids_.count(tokenizer.bos_token_id) == begins
        assert (ids_[0] == tokenizer.bos_token_id) == begins


@pytest.mark.parametrize(("name", "template"), [*PAIRS, ("deepseek_v3", "deepseekv3")])
def test_an_answer_comes_back_as_it_was_rendered(name: str, template: str | None, real_tokenizer) -> None:
    chat = Chat(real_tokenizer(name, template))
    trims = name in ("llama3_1", "gemma3")
    texts = [
        "Hello.",
        "Two\n\nparagraphs, 2 x\ttabs",
        "def f(x):\n    return x",
        " blank",
        "日本語 🙂",
        "x\n",
    ]
    for text, ids_ in zip(texts, chat.answers([as_row(C1)] * len(texts), texts), strict=True):
        assert chat.text(ids_) == (text.strip() if trims else text)
        assert chat.text([*ids_, *ids_]) == chat.text(ids_)  # what follows the end of a turn is no answer
        assert chat.text(ids_[:-1]) == chat.text(ids_)


def test_qwen_composes_letters_and_strips_line_breaks(real_tokenizer) -> None:
    chat = Chat(real_tokenizer("qwen3"))
    assert chat.text(chat.answer(as_row(C1), "cafe\u0301")) == "caf\u00e9"
    assert chat.text(chat.answer(as_row(C1), "\n\nHello.")) == "Hello."


def test_thinking_is_no_answer(real_tokenizer) -> None:
    qwen = real_tokenizer("qwen3", "qwen3")
    chat = Chat(qwen)
    thought = "<think>\nA greeting.\n</think>\n\nHello."
    answer = chat.answer(as_row(C1), thought)
    assert qwen.decode(answer) == thought + "<|im_end|>"
    assert chat.text(answer) == "Hello."
    assert chat.text(qwen("<think>\nA gree")["input_ids"]) == ""
    with pytest.raises(DataError, match=r"turn 3 \(assistant\) at '</think>'"):
        chat.prompt(as_row([*C1, {"role": "assistant", "content": thought}, C1[1]]))
    longer = Chat(real_tokenizer("qwen3"))  # this one writes more line breaks, and nothing is lost
    assert longer.text(longer.answer(as_row(C1), thought)) == "Hello."
    quick = Chat(qwen, {"enable_thinking": False})
    assert quick.prompt(as_row(C1)) == Q1 + THINK
    assert quick.answer(as_row(C1), "Hello.") == HELLO_Q
    oss = real_tokenizer("gptoss", "gptoss")
    chat = Chat(oss)
    thoughts = "<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant"
    said = "<|channel|>final<|message|>Hello.<|return|>"
    assert chat.text(oss(thoughts + said)["input_ids"]) == "Hello."
    assert chat.text(oss(thoughts)["input_ids"]) == ""
    opened = Chat(real_tokenizer("deepseek_v3", "deepseekv3"))
    assert opened.text(opened.tokenizer("A greeting.\n</think>\n\nHello.")["input_ids"]) == "Hello."


REFUSED = [
    ("gemma3", None, [C1[1], C1[1]], "refuses .*'Hi there': Conversation roles must alternate"),
    ("gemma3", None, [C1[0]], r"drops turn 1 \(system\) .*'Be brief.'; put its text into a user turn"),
    ("deepseek_v3", None, [*C4[1:], C1[0], C1[1]], r"moves turn 4 \(system\)"),
    ("gptoss", "gptoss", [*C4[1:], C1[0], C1[1]], r"drops turn 4 \(system\)"),
    ("gptoss", "gptoss", [*C1, {"role": "nurse", "content": "x"}], r"drops turn 3 \(nurse\)"),
    ("qwen3", None, [{"role": "user", "content": None}], "turn 1 of a conversation has no text"),
    ("qwen3", None, C3, "must end with a turn that the assistant answers"),
    (
        "llama3_1",
        None,
        [*C1, {**C3[2], "tool_calls": [{}]}, C1[1]],
        "turn 3 of a conversation has tool_calls",
    ),
]


@pytest.mark.parametrize(("name", "template", "messages", "said"), REFUSED)
def test_what_a_template_would_lose_is_refused(name, template, messages, said: str, real_tokenizer) -> None:
    with pytest.raises(DataError, match=said) as error:
        Chat(real_tokenizer(name, template)).prompt({"prompt": "", "messages": messages})
    assert "\n" not in str(error.value)


def test_a_closing_tag_in_an_answer_splits_it(real_tokenizer) -> None:
    chat = Chat(real_tokenizer("qwen3"))
    prose = "The tag </think> closes a block."
    with pytest.raises(DataError, match=r"splits the text of turn 3 \(assistant\) at '</think>'"):
        chat.answer(as_row(C1), prose)
    with pytest.raises(
        DataError, match=r"turn 2 \(assistant\) at '</think>'.*take the thinking and its tags"
    ):
        chat.prompt(as_row([C1[1], {"role": "assistant", "content": prose}, C1[1]]))
    llama = Chat(real_tokenizer("llama3_1"))
    assert llama.text(llama.answer(as_row(C1), prose)) == prose


def test_tool_turns_stand_where_the_template_has_them(real_tokenizer) -> None:
    turns = [*C3, {"role": "tool", "content": "12 degrees"}]
    shown = real_tokenizer("qwen3").decode(Chat(real_tokenizer("qwen3")).prompt(as_row(turns)))
    assert "<tool_response>\n12 degrees\n</tool_response>" in shown


def test_gemma_reads_the_system_in_the_users_turn(real_tokenizer) -> None:
    tokenizer = real_tokenizer("gemma3")
    shown = tokenizer.decode(Chat(tokenizer).prompt(as_row(C1)))
    assert shown.startswith("<bos><start_of_turn>user\nBe brief.\n\nHi there<end_of_turn>")


def test_arguments_reach_the_template_and_others_are_refused(real_tokenizer) -> None:
    dated = real_tokenizer("llama3_1", "llama3_1")
    shown = dated.decode(Chat(dated, {"date_string": "1 May 2025"}).prompt(as_row(C1)))
    assert "Today Date: 1 May 2025" in shown
    with pytest.raises(DataError, match=r"never reads the template argument 'today'; it reads .*date_string"):
        Chat(dated, {"today": "2025-05-01"})
    with pytest.raises(DataError, match=r"'enable_thinkin'; it reads .*enable_thinking"):
        Chat(real_tokenizer("qwen3"), {"enable_thinkin": False})
    with pytest.raises(DataError, match="today: 'soon' is no date"):
        Chat(real_tokenizer("gptoss", "gptoss"), {"today": "soon"})


def test_text_apart_differs_from_text_joined(real_tokenizer) -> None:
    for name, _ in PAIRS:
        tokenizer = real_tokenizer(name)
        plain = Plain(tokenizer)
        joined = tokenizer("A: yes", add_special_tokens=False)["input_ids"]
        apart = plain.prompt({"prompt": "A: "}) + plain.answer({"prompt": "A: "}, "yes")
        assert apart[len(plain.start) :] != [*joined, *plain.stops], name
        assert plain.text(plain.answer({"prompt": "A:"}, " yes")) == " yes"


def test_a_tokenizer_has_the_ids_of_its_file(real_folder, real_tokenizer, tmp_path) -> None:
    """transformers builds Llama 2's from its class, and a blank at the start of a text is lost."""
    folder = real_folder("llama2")
    with pytest.raises(DataError, match="reads ' a leading blank' as other ids than this file"):
        check_tokenizer(folder, AutoTokenizer.from_pretrained(folder))
    tokenizer = load_tokenizer(folder)
    check_tokenizer(folder, tokenizer)
    plain = Plain(tokenizer)
    answer = plain.answer({}, " yes")
    read = tokenizer.convert_ids_to_tokens(plain.prompt({"prompt": "A:"}) + answer)
    assert read == ["<s>", "▁A", ":", "▁yes", "</s>"]
    assert plain.text(answer) == " yes"


@pytest.mark.parametrize("name", ["llama3_1", "deepseek_v3"])
def test_a_saved_tokenizer_reads_alike(name: str, real_tokenizer, tmp_path) -> None:
    tokenizer = real_tokenizer(name)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.padding_side == "left"
    assert Chat(again).prompt(as_row(C4)) == Chat(tokenizer).prompt(as_row(C4))
    assert Plain(again).prompt({"prompt": "Hi"}) == Plain(tokenizer).prompt({"prompt": "Hi"})
