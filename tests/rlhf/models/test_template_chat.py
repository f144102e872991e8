"""Chat templates of every sort on a small tokenizer: what is learnt, what is refused, what comes back."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf.data.errors import DataError
from rlhf.models.chatml import CHATML
from rlhf.models.scratch import train_tokenizer
from rlhf.models.template import (
    Chat,
    Plain,
    answered,
    as_row,
    check_tokenizer,
    content_ids,
    documents,
    load_tokenizer,
    prompts_within,
    template_of,
)
from rlhf.models.template_source import settled
from rlhf.world.posts import draw_post
from rlhf.world.source import CUE
from rlhf.world.writers import write

TEXTS = ["Be brief.", "Hi there, how are you?", "Hello.\n\nFine, and you?", "It works. Does it work?"]
TOKENS = [
    "<s>",
    "<|turn|>",
    "<|end|>",
    "<think>",
    "</think>",
    "<|final|>",
    "<|START_THINKING|>",
    "<|END_THINKING|>",
]
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi there"}
HELLO = {"role": "assistant", "content": "Hello."}
TURN = "<|turn|>{{ m['role'] }}\n"
TURNS = f"{{% for m in messages %}}{TURN}{{{{ m['content'] }}}}<|end|>\n{{% endfor %}}"
READY = "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"


@pytest.fixture(scope="module")
def base() -> Any:
    made = train_tokenizer(TEXTS * 3, "bpe", 400)
    made.add_special_tokens({"additional_special_tokens": TOKENS})
    return made


@pytest.fixture
def chat_of(base):
    """A function: template source -> `Chat`."""
    before = base.chat_template

    def made(source: str, arguments: dict[str, Any] | None = None, wrap: bool = False) -> Chat:
        base.chat_template = source
        return Chat(base, arguments, wrap)

    yield made
    base.chat_template = before


def shown(chat: Chat, ids: list[int]) -> str:
    return chat.tokenizer.decode(ids)


def test_what_is_learnt_ends_with_the_turn(chat_of) -> None:
    chat = chat_of(TURNS + READY)
    row = as_row([SYSTEM, USER])
    assert shown(chat, chat.prompt(row)) == (
        "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nHi there<|end|>\n<|turn|>assistant\n"
    )
    assert shown(chat, chat.answer(row, "Fine.")) == "Fine.<|end|>"
    assert [shown(chat, [i]) for i in chat.stops] == ["<|end|>", "<eos>"]
    assert chat.text([*chat.answer(row, "Fine."), *chat.answer(row, "No.")]) == "Fine."


# What a template writes behind the prompt -> what of it is learnt for "It works.".
FORMS = {
    "{{ c }}<|end|>\n": "It works.<|end|>",
    "{{ c }} <|end|>": "It works. <|end|>",
    " {{ c }}<|end|>": " It works.<|end|>",
    "<|final|>{{ c }}<|end|>": "<|final|>It works.<|end|>",
    "<think>\n\n</think>\n\n{{ c }}<|end|>": "<think>\n\n</think>\n\nIt works.<|end|>",
    "{{ c }}<|final|><|end|>": "It works.<|final|>",  # two tokens side by side: the first ends the turn ...
    "{{ c }}<|final|>{{ eos_token }}": "It works.<|final|><eos>",  # ... unless one of them is EOS
    "{{ c }}<|end|>\n{{ eos_token }}": "It works.<|end|>",
    "{{ c }}\n": "It works.<eos>",  # no token ends the turn
    "{{ c }}": "It works.<eos>",
}


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_around_an_answer(form: str, chat_of) -> None:
    answer = "{% set c = m['content'] %}" + form
    chat = chat_of(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}" + answer + "{% else %}"
        "<|turn|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    row = as_row([USER])
    assert shown(chat, chat.answer(row, "It works.")) == FORMS[form]
    for text in ("It works.", "Hi\n\nthere", "x  y", "It holds <|end|>, <think> and <eos>"):
        ids = chat.answer(row, text)
        assert ids.index(chat.stops[0]) == len(ids) - 1
        assert chat.text(ids) == text


def test_an_answer_behind_a_prompt_that_does_not_begin_the_whole(chat_of) -> None:
    row = as_row([USER])
    opened = chat_of(TURNS + "{% if add_generation_prompt %}<|turn|>assistant\n<think>\n{% endif %}")
    assert shown(opened, opened.prompt(row)).endswith("<think>\n")
    assert shown(opened, opened.answer(row, "Fine.")) == "Fine.<|end|>"
    assert opened.text(opened.answer(row, "Fine.")) == "Fine."
    chatml = chat_of(TURNS + READY)  # the line break grows together with the header's
    ids = chatml.prompt(row) + chatml.answer(row, "\n\nFine.")
    assert shown(chatml, ids).endswith("assistant\n\n\nFine.<|end|>")
    assert chatml.text(chatml.answer(row, "\n\nFine.")) == "\n\nFine."
    once = chat_of(  # the system text stands in the last turn, and only while that is a user's
        "{% for m in messages if m['role'] != 'system' %}<|turn|>"
        "{% if loop.last and m['role'] == 'user' %}{{ messages[0]['content'] }}\n{% endif %}"
        "{{ m['content'] }}<|end|>{% endfor %}"
    )
    assert shown(once, once.prompt(as_row([SYSTEM, USER]))) == "<|turn|>Be brief.\nHi there<|end|>"
    assert shown(once, once.answer(as_row([SYSTEM, USER]), "Fine.")) == "Fine.<|end|>"


def test_a_template_that_closes_what_generation_opened(chat_of) -> None:
    answer = "<|turn|>assistant\n<think>\n\n</think>\n\n{{ m['content'] }}<|end|>"
    chat = chat_of(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}" + answer + "{% else %}"
        "<|turn|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n<think>\n{% endif %}"
    )
    ids = chat.answer(as_row([USER]), "Fine.")
    assert shown(chat, ids) == "\n</think>\n\nFine.<|end|>"
    assert chat.text(ids) == "Fine."
    assert chat.text(chat.tokenizer("Well.</think>\n\nFine.")["input_ids"]) == "Fine."


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("<|START_THINKING|>", "<|END_THINKING|>")])
def test_thinking_is_cut_off(tags: tuple[str, str], chat_of) -> None:
    chat = chat_of(TURNS + READY)
    thought = f"{tags[0]}\nWell, hm.\n{tags[1]}\n\nFine."
    answer = chat.answer(as_row([USER]), thought)
    assert shown(chat, answer) == thought + "<|end|>"  # an assistant's tags are what they spell
    assert chat.text(answer) == "Fine."
    assert chat.text(chat.tokenizer(f"{tags[0]}\nWell, h")["input_ids"]) == ""
    asked = chat.prompt(as_row([{"role": "user", "content": thought}]))
    assert not {chat.tokenizer.convert_tokens_to_ids(tag) for tag in tags} & set(asked)
    prose = f"The tag {tags[1]} closes it."
    assert chat.text(chat.answer(as_row([USER]), prose)) == prose


LATER = [USER, HELLO, SYSTEM, USER]
RAISES = "{% for m in messages %}{{ raise_exception('no ' + m['role']) }}{% endfor %}"
NO_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + TURNS + READY
FIRST = (
    "{% for m in messages if m['role'] == 'system' %}" + TURN + "{{ m['content'] }}<|end|>{% endfor %}"
    "{% for m in messages if m['role'] != 'system' %}" + TURN + "{{ m['content'] }}<|end|>{% endfor %}"
)
HALVED = TURNS.replace("m['content']", "m['content'].split('|')[0]") + READY
REFUSED = [
    (
        NO_SYSTEM,
        [SYSTEM, USER],
        r"drops turn 1 \(system\) of the conversation that begins 'Be brief.'; put its text",
    ),
    (NO_SYSTEM, LATER, r"drops turn 3 \(system\)"),
    (FIRST, LATER, r"moves turn 3 \(system\)"),
    (HALVED, [{"role": "user", "content": "a|b"}], r"changes the text of turn 1 \(user\)"),
    (TURNS + READY, [{"role": "user", "content": None}], "turn 1 of a conversation has no text"),
    (TURNS + READY, [{"role": "user", "content": ["a"]}], "turn 1 of a conversation has no text"),
    (TURNS + READY, [{**USER, "tool_calls": [1]}], "turn 1 of a conversation has tool_calls"),
    (TURNS + READY, [USER, HELLO], "must end with a turn that the assistant answers"),
    (TURNS + READY, [], "must end with a turn that the assistant answers"),
    (
        CHATML,
        [USER, HELLO, {"role": "tool", "content": "x"}],
        "refuses .*'Hi there': ChatML knows .* turn of tool",
    ),
]


@pytest.mark.parametrize(("source", "messages", "said"), REFUSED)
def test_a_conversation_is_refused_in_a_line(source: str, messages: Any, said: str, chat_of) -> None:
    with pytest.raises(DataError, match=said) as error:
        chat_of(source).prompt({"prompt": "", "messages": messages})
    assert "\n" not in str(error.value)


def test_a_template_that_cannot_be_used_is_refused_at_once(chat_of) -> None:
    with pytest.raises(DataError, match=r"refuses .*: no user"):
        chat_of(RAISES)
    with pytest.raises(DataError, match="no Jinja template: line 2"):
        chat_of("{% for m in messages %}\n{% endif %}")
    with pytest.raises(DataError, match=r"drops turn 1 \(user\)"):
        chat_of(
            "{% for m in messages %}{% for part in m['content'] %}{{ part.text }}{% endfor %}{% endfor %}"
        )


def test_arguments_and_the_date(chat_of) -> None:
    source = "{{ strftime_now('%d %b %Y') }}{% if loud %}!{% endif %}" + TURNS + READY
    row = as_row([USER])
    assert shown(chat_of(source), chat_of(source).prompt(row)).startswith("26 Jul 2024<|turn|>")
    chat = chat_of(source, {"today": "2026-11-28", "loud": True})
    assert shown(chat, chat.prompt(row)).startswith("28 Nov 2026!<|turn|>")
    again, _ = settled(chat.source, {"loud": True})
    assert again == chat.source  # what was saved with its date keeps it
    for wrong in ({"lout": True}, {"messages": []}):
        with pytest.raises(DataError, match=r"never reads the template argument .*; it reads loud, today"):
            chat_of(source, wrong)
    with pytest.raises(DataError, match="it reads none"):
        chat_of(TURNS + READY, {"today": "2026-11-28"})
    with pytest.raises(DataError, match="in a form that it computes"):
        chat_of("{{ strftime_now(messages[0]['content']) }}" + TURNS)
    set_where_missing = "{% if not tone is defined %}{% set tone = 'calm' %}{% endif %}{{ tone }}" + TURNS
    chat = chat_of(set_where_missing, {"tone": "loud"})
    assert shown(chat, chat.prompt(row)).startswith("loud<|turn|>")


def test_bos_stands_once_whoever_writes_it(base) -> None:
    base = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(base.backend_tokenizer.to_str()),
        eos_token="<eos>",
        bos_token="<s>",
    )
    bos = base.bos_token_id
    for source in (TURNS + READY, "{{ bos_token }}" + TURNS + READY):
        base.chat_template = source
        base.backend_tokenizer.post_processor = processors.ByteLevel()
        assert Chat(base).prompt(as_row([USER])).count(bos) == ("bos_token" in source)
        assert Plain(base).prompt({"prompt": "Hi"}).count(bos) == 0
        base.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bos)]
        )
        chat = Chat(base)
        for ids in (chat.prompt(as_row([USER])), Plain(base).prompt({"prompt": "Hi"})):
            assert ids[0] == bos
            assert ids.count(bos) == 1
        whole = base.apply_chat_template(
            [USER], chat_template=chat.source, add_generation_prompt=True, return_dict=False
        )
        assert whole == chat.prompt(as_row([USER]))  # who serves with this template reads the same
        assert Plain(base).answer({}, "Hi").count(bos) == 0
        (text, cut), _ = documents(chat, ["Hi there", "Hi there, how are you?"], 4)
        assert text == [*Plain(base).prompt({"prompt": "Hi there"}), base.eos_token_id][:4]
        assert (cut[0], len(cut)) == (bos, 4)


def test_plain_rows_and_the_kinds(base, chat_of) -> None:
    chat = chat_of(TURNS + READY)
    row, plain = as_row("Hi there"), Plain(base)
    rows = [row, as_row([USER]), row]
    assert chat.prompts(rows) == [plain.prompt(row), chat.prompt(as_row([USER])), plain.prompt(row)]
    assert chat.answers(rows, [" a", "b", " c"]) == [
        plain.answer(row, " a"),
        chat.answer(rows[1], "b"),
        plain.answer(row, " c"),
    ]
    assert chat.text(plain.answer(row, " a"), row) == " a"
    wrapped = template_of(base, "chat")
    assert wrapped.prompt(row) == chat.prompt(as_row([USER]))
    assert isinstance(template_of(base, "plain"), Plain)
    with pytest.raises(DataError, match="use auto, plain or chat"):
        template_of(base, "chad")
    with pytest.raises(DataError, match=r"template_arguments \(loud\) need a chat template"):
        template_of(base, "plain", {"loud": True})


def test_what_is_too_long(base, chat_of) -> None:
    chat = chat_of(TURNS + READY)
    row, plain = as_row("Hi there, how are you?"), Plain(base)
    ids, answer = plain.prompt(row), plain.answer(row, " Fine.")
    (cut,), (start,) = answered(plain, [row], [" Fine."], len(answer) + 3)
    assert cut == ids[-3:] + answer
    assert start == 3
    assert prompts_within(plain, [row], 4) == [ids[-4:]]
    plain.start = [base.convert_tokens_to_ids("<s>")]
    (cut,), (start,) = answered(plain, [row], [" Fine."], len(answer) + 3)
    assert cut == plain.start + ids[-2:] + answer
    (cut,), _ = answered(plain, [row], [" Fine."], len(answer) + 1)
    assert cut == plain.start + answer
    with pytest.raises(DataError, match=r"the answer ' Fine.' has .* tokens and the context"):
        answered(plain, [row], [" Fine."], len(answer))  # no room for BOS
    with pytest.raises(
        DataError, match=r"'Hi there' has .* tokens, and the context has room for 2 beside the answer"
    ):
        answered(chat, [as_row([USER])], ["Fine."], len(chat.answer(as_row([USER]), "Fine.")) + 2)


def test_the_built_in_words_are_read_apart_as_they_were_together() -> None:
    rng = random.Random(3)
    posts = [draw_post(rng, 0.5) for _ in range(60)]
    rows = [(post.text.removesuffix(CUE) + CUE, write(post, rng)[0]) for post in posts]
    tokenizer = train_tokenizer([prompt + answer for prompt, answer in rows], "word", 2000)
    plain = Plain(tokenizer)
    prompts, answers = plain.pairs([as_row(prompt) for prompt, _ in rows], [answer for _, answer in rows])
    for (prompt, answer), first, second in zip(rows, prompts, answers, strict=True):
        whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        assert first + second == [*whole, tokenizer.eos_token_id]
        assert plain.text(second) == answer


def test_a_mark_that_no_text_may_hold(base) -> None:
    with pytest.raises(DataError, match="which are no characters"):
        content_ids(base, ["a \ufdd0 b"])


def test_a_tokenizer_that_is_built_from_its_class_reads_as_its_file(base, tmp_path) -> None:
    base.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    own = Tokenizer.from_file(str(file))
    own.normalizer = normalizers.Lowercase()
    own.save(str(file))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "GPT2Tokenizer"))
    rebuilt = AutoTokenizer.from_pretrained(tmp_path)
    text = "Hello"
    assert load_tokenizer(tmp_path)(text)["input_ids"] == own.encode(text).ids
    assert rebuilt(text)["input_ids"] != own.encode(text).ids
    with pytest.raises(DataError, match="as other ids than this file"):
        check_tokenizer(tmp_path, rebuilt)


def test_no_code_of_a_tokenizer_is_run(base, tmp_path) -> None:
    base.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoTokenizer": ["x.Y", null]},', 1))
    assert load_tokenizer(tmp_path)("Hi there")["input_ids"] == base("Hi there")["input_ids"]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="cannot read the tokenizer") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_a_token_that_is_eos_and_unknown_too_stays_out_of_texts(base) -> None:
    """GPT-2's is both."""
    both = copy.deepcopy(base)
    both.unk_token = both.eos_token
    both.chat_template = TURNS + READY
    for text in ("<eos>", "a <eos> b"):
        for ids in (content_ids(both, [text])[0], Chat(both).answer(as_row([USER]), text)[:-1]):
            assert both.eos_token_id not in ids
            assert both.decode(ids) == text


def test_a_token_that_takes_the_blanks_behind_it(base) -> None:
    """Phi-3's do, so a line break behind a header is no token, whatever stands in the answer."""
    eats = copy.deepcopy(base)
    eats.add_tokens([AddedToken("<|turns|>", rstrip=True, special=True)])
    turns = "{% for m in messages %}<|turns|>\n{{ m['content'] }}<|end|>{% endfor %}"
    eats.chat_template = turns + "{% if add_generation_prompt %}<|turns|>\n{% endif %}"
    chat = Chat(eats)
    for text in ("Fine.", "<|end|> x", "<|turns|> x"):
        ids = chat.answer(as_row([USER]), text)
        assert eats.decode(ids) == text + "<|end|>"
        assert chat.text(ids) == text
