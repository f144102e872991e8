"""The report: what the page says, that it is self-contained, and that it repeats."""

from collections import Counter

from report_page import BASE, CHAT, FINDING, PAGES, Page, evaluation, extra, render

from rlhf.report.charts import preference_chart
from rlhf.report.curves import curve_charts
from rlhf.report.data_tables import findings_table
from rlhf.report.page import facts, render_report
from rlhf.report.reward_tables import metric_tables


def test_page_is_self_contained_and_hostile_text_stays_text():
    page = Page(render())
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "object", "form"})
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#") or attributes[name] == PAGES
    assert "</dd><script>alert('x')</script><img src=x onerror=alert(1)>&lt;\ufffdback\ufffd" in page.text


def test_a_conversation_is_shown_turn_by_turn():
    html = render(messages=CHAT)
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    turns = [attributes["class"] for tag, attributes in page.tags if tag == "li" and "class" in attributes]
    looks = ["turn system", "turn user", "turn assistant", "turn tool", "turn other", "turn user"]
    assert [look for look in turns if look.startswith("turn")] == looks * 4
    first = page.text[page.text.index("Be brief.") : page.text.index("Which  one?")]
    places = [first.index(name) for name in ("User", "Assistant", "Tool", "Role “", "from nobody")]
    assert places == sorted(places)
    assert ".turn.tool .text" in html
    assert ".turn" not in render()  # a page of plain prompts is as it was


def test_a_base_model_of_elsewhere_is_told_with_what_was_changed():
    page = Page(render(base=BASE))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    text = " ".join(page.text.split())
    for part in (
        "licenceapache-2.0",
        "LlamaForCausalLM, 1,234 parameters",
        "float32, stored as bfloat16",
        "Changed when it was brought in: the tokenizer pads with '<pad>' now",
    ):
        assert part in text
    assert "Nothing had to be changed" in Page(render(base=BASE | {"changes": []})).text
    trained_here = {"parameters": 1.0, "vocabulary": 2.0, "loss": 3.0}
    assert render(base=trained_here) == render()


def test_page_is_accessible():
    page = Page(render())
    tags = [tag for tag, _ in page.tags]
    assert dict(page.tags)["html"]["lang"] == "en"
    assert tags.count("h1") == tags.count("main") == 1
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    assert all(a["role"] == "img" and a["aria-label"] for tag, a in page.tags if tag == "svg")
    assert all("scope" in a for tag, a in page.tags if tag == "th")


def test_page_says_judge_kind_n_interval_and_who_ranked():
    text = " ".join(Page(render()).text.split())
    assert (
        "PPO is preferred to the reference at a rate of 0.600 (0.550 to 0.650) on 100 held-out prompts"
        in text
    )
    for part in (
        "the-judge",
        "n = 100",
        "0.550 to 0.650",
        "A tie counts one half",
        "Rankings by simulated labelers",
        "0.0987",
    ):
        assert part in text
    model = " ".join(Page(render(kind="model", labelers="given")).text.split())
    assert "model judge" in model
    assert "gold preference" not in model
    assert "simulated" not in model


def test_page_says_which_base_was_brought_in():
    judged = evaluation()
    for params, said in (
        ({"base.path": "owner/model", "base.revision": "0123456789abcdef"}, "owner/model at 0123456789ab"),
        ({"base.path": "/models/mine", "base.revision": None}, "/models/mine"),
    ):
        assert dict(facts(judged, params, {}, {"corpus": {"rows": 9}}, {}))["Base model"] == said


def test_page_says_hacking_first_and_shows_every_part():
    text = " ".join(Page(render()).text.split())
    sentence = "Reward hacking: from update 0 to 3 of PPO the preference fell by 0.200 while the reward rose"
    assert sentence in text[: text.index("Not promoted")]
    stopped = (
        "The early-stopping judge stopped PPO after update 3; the weights after update 0 are the policy."
    )
    assert stopped in text[: text.index("Not promoted")]
    assert (
        "from update 0 to 3 the early-stopping judge's preference on 50 held-out prompts fell by 0.200"
        in text
    )
    for part in (
        "Judges side by side",
        "0.800 (0.700 to 0.900)",
        "0.0100, fell",
        "personal data",
        "best of 4",
        "+1.50",
    ):
        assert part in text


def test_who_reads_the_first_screen_knows_the_run_its_data_and_why_it_was_not_promoted():
    text = " ".join(Page(render()).text.split())
    top = text[: text.index("What the policies write")]
    for part in (
        "2026-11-28",
        "built-in task: 6,686 demonstrations, 2,024 rankings by simulated labelers",
        "0.1M, trained from scratch on 24,000 texts",
        "the-judge (gold preference), 100 held-out prompts",
        "seed=18",
        "3 min 34 s, 913 MB at most",
        "Not promoted: version 3 stays @challenger",
        "Compared with the champion, version 2, run",
        "FAILED slices",
        "held interval lower end 0.550",
    ):
        assert part in top
    assert top.index("FAILED slices") < top.index("held interval")  # what failed is read first
    assert top.count("Few prompts.") == 1  # said by the evaluation and by the gate


def test_warnings_stand_before_samples_and_three_samples_before_the_tables():
    page = render()
    places = [page.index(part) for part in ("Before you read", "sample 1, worst", "<caption>Preferred to")]
    assert places == sorted(places)
    assert page.count('<section class="sample"') == 4
    order = [page.index(f"<dt>{name}</dt>") for name in ("reference", "PPO", "SFT", "pretrained")]
    assert order == sorted(order)
    assert page.index("<summary>1 more") > page.index("sample 3, best")


def test_a_promoted_run_says_so_and_needs_neither_name_nor_champion():
    numbers = evaluation() | extra("gold") | {"warnings": []}
    page = render_report(
        numbers,
        {"preferred-to-reference": preference_chart(numbers, 0.95)},
        {"stage_key": "k", "inputs": {}, "samples": []},
        gate={"promoted": True, "version": "1", "rules": []},
        params={"collect.labelers": "given"},
    )
    assert "Promoted: version 1 is @champion" in page
    assert "Before you read" not in page


def test_same_numbers_give_the_same_bytes():
    assert render() == render()
    assert "<dc:date>" not in preference_chart(evaluation(), 0.95)


def test_curves_leave_out_what_is_not_there(tmp_path):
    (tmp_path / "base.csv").write_text("step,loss\n1,3.5\n2,3.0\n")
    (tmp_path / "ppo.csv").write_text("step,objective/kl,other\n1,0.1,5\n2,,5\n")
    (tmp_path / "sft.csv").write_text("step,odd\n1,2\n")
    assert set(curve_charts(tmp_path)) == {"base-loss", "ppo-kl"}
    assert curve_charts(tmp_path / "nothing") == {}


def test_metrics_of_any_shape_become_tables():
    table = {"corner": "", "note": "", "wide": False}
    shown = metric_tables(
        {
            "loss": 0.25,
            "bias": None,
            "by_group": {"all": {"accuracy": 0.7, "pairs": 9}, "novice": {"pairs": 3}},
        },
        "RM",
    )
    assert shown == [
        table | {"caption": "RM", "columns": [], "rows": [["loss", "0.250"], ["bias", "–"]]},
        table
        | {
            "caption": "RM: by group",
            "columns": ["accuracy", "pairs"],
            "rows": [["all", "0.700", "9"], ["novice", "", "3"]],
        },
    ]
    assert metric_tables({}, "none") == []


def test_what_the_rules_found_in_the_data_is_a_table_of_the_report() -> None:
    assert findings_table([]) is None
    told = findings_table([FINDING | {"rows": 1234}, FINDING | {"severity": "quarantine", "rows": None}])
    assert told is not None
    assert told["rows"][0][:3] == ["demonstrations: texts hold no e-mail", "warning", "1,234"]
    assert told["rows"][1][1:3] == ["set aside", ""]
