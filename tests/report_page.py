"""What tests of the report share: an evaluation, a gate, and the page rendered of them."""

from __future__ import annotations

from html.parser import HTMLParser

from rlhf.report.charts import overoptimisation_charts, preference_chart
from rlhf.report.page import render_report

HOSTILE = "</dd><script>alert('x')</script><img src=x onerror=alert(1)>&lt;\u202eback\x00"


CHAT = [  # with a role that a reader would refuse, since the page must hold on its own
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": HOSTILE},
    {"role": "assistant", "content": f"</li></ol>\n\nUser: no turn of mine {HOSTILE}"},
    {"role": "tool", "content": '{"stock": 3}'},
    {"role": HOSTILE, "content": "from nobody"},
    {"role": "user", "content": "Which  one?"},
]


MEASURE = {
    "name": "rate",
    "difference": 0.012,
    "low": -0.004,
    "high": 0.029,
    "p_better": 0.07,
    "p_worse": 0.9,
}


GATE = {
    "promoted": False,
    "version": "3",
    "rules": [
        {"rule": "interval", "held": True, "detail": "lower end 0.550"},
        {"rule": "slices", "held": False, "detail": HOSTILE},
    ],
    "warnings": [HOSTILE, "few prompts"],
    "champion": {"version": "2", "comparison": {"measures": [MEASURE]}},
}


FINDING = {
    "table": "demonstrations",
    "rule": "personal_data",
    "severity": "warn",
    "text": "texts hold no e-mail",
    "rows": 1234,
    "example": HOSTILE,
    "mend": "take it out",
}


PAGES = "http://127.0.0.1:8700/older/reports/report.html"


ABOUT = {
    "name": HOSTILE,
    "date": "2026-11-28",
    "commit": "abc",
    "changed": "seed=18",
    "seconds": 214.4,
    "memory_mb": 913.2,
    "champion": {"version": "2", "run": HOSTILE, "link": PAGES},
}


DATA = {
    "demonstrations": {"train": {"rows": 5686}, "test": {"rows": 1000}},
    "comparisons": {"train": {"rows": 0}},
    "corpus": {"rows": 24000},
}


BASE = {
    "name": f"team/{HOSTILE}",
    "revision": "0" * 40,
    "hash": "f" * 64,
    "architecture": "LlamaForCausalLM",
    "parameters": 1234,
    "vocabulary": 300,
    "stored": "bfloat16",
    "dtype": "float32",
    "context": 4096,
    "template": "auto",
    "stops": ["<eos>", HOSTILE],
    "pad": "<pad>",
    "licence": "apache-2.0",
    "changes": ["the tokenizer pads with '<pad>' now", HOSTILE],
}


def evaluation(low: float = 0.55, high: float = 0.65, kind: str = "gold") -> dict:
    row = {"rate": (low + high) / 2, "low": low, "high": high, "wins": 55, "ties": 10, "losses": 35}
    row |= {"mean_length": 17.25, "kl": 1.5}
    paired = {
        "difference": 0.1,
        "low": 0.05,
        "high": 0.15,
        "better": 20,
        "worse": 10,
        "p_value": 0.0987,
        "n": 100,
    }
    return {
        "judge": {"name": "the-judge", "kind": kind, "tie_rule": "a tie counts one half"},
        "n": 100,
        "confidence": 0.95,
        "policies": {"pretrained": row, "sft": row, "ppo": row},
        "reference": {"mean_length": 18.0},
        "comparisons": {"ppo_vs_sft": paired},
    }


def extra(kind: str) -> dict:
    """What else an evaluation holds: a second judge, slices, checks, snapshots along PPO."""
    level = {"rate": 0.5, "low": 0.4, "high": 0.6, "slope": 0.1, "longer": 0.5, "n": 100}
    row = {"rate": 0.6, "low": 0.55, "high": 0.65, "n": 100, "length_controlled": level}
    agree = {"raw": 0.8, "raw_interval": [0.7, 0.9], "alpha": 0.6, "alpha_interval": [0.5, 0.7], "n": 300}
    agree |= {"kappa": None, "kappa_interval": None, "judges": 2}
    judges = {
        "first": {"kind": kind, "policies": {"ppo": row}},
        HOSTILE: {"kind": "simulated" if kind == "gold" else kind, "policies": {"ppo": row}}
        | {"agreement": {"first": agree}},
    }
    piece = {"name": HOSTILE, "rate": 0.5, "low": 0.4, "high": 0.6, "n": 50, "difference": -0.1}
    piece |= {"better": 1, "worse": 9, "p_value": 0.01, "fell": True}
    finding = {
        what: {"count": 1, "share": 0.01} for what in ("banned", "personal_data", "repetitive", "empty")
    }
    rate = {"rate": 0.6, "low": 0.5, "high": 0.7}
    hacking = {"found": True, "best": 0, "before": 0, "after": 3, "fall": 0.2, "rise": 1.5, "p_value": 1e-9}
    return {
        "judges": judges,
        "slices": {"topic": [piece]},
        "safety": {"ppo": {"n": 100} | finding},
        "overoptimisation": {
            "judge": {"name": "the-judge", "kind": kind},
            "n": 50,
            "looks": [
                rate | {"update": 0, "kl": 0.0, "score": 0.0},
                rate | {"update": 3, "kl": 2.0, "score": 1.5},
            ],
            "fit": {"form": "rl", "a": 0.1, "b": 0.2},
            "hacking": hacking,
            "best_of_n": {
                "looks": [rate | {"n": 1, "kl": 0.0, "score": 0.0}, rate | {"n": 4, "kl": 0.6, "score": 0.7}],
                "fit": None,
            },
        },
        "held_out": {"kept": 0, "stopped": 3, "n": 50, "hacking": hacking},
    }


def render(
    kind: str = "gold",
    labelers: str = "simulated",
    messages: list | None = None,
    base: dict | None = None,
) -> str:
    numbers = evaluation(kind=kind) | extra(kind) | {"warnings": ["few prompts"]}
    sample = {
        "place": "worst",
        "prompt": HOSTILE,
        "reference": HOSTILE,
        "preferred": "reference",
        "margin": -1.25,
    } | ({"messages": messages} if messages else {})
    return render_report(
        numbers,
        {name: preference_chart(numbers, 0.95) for name in ("preferred-to-reference", "ppo-kl")}
        | overoptimisation_charts(numbers["overoptimisation"], 0.95),
        {
            "stage_key": "0123456789abcdef",
            "inputs": {"data/prepared": "fedcba9876543210"},
            "samples": [
                sample | {"place": place, "outputs": {"pretrained": "p", "ppo": HOSTILE, "sft": ""}}
                for place in ("worst", "worst", "typical", "best")
            ],
        },
        gate=GATE,
        about=ABOUT,
        findings=[FINDING],
        params={"collect.labelers": labelers, "ppo.kl_coef": 0.05, "base.scale": "0.1M"}
        | {"ingest.source": "builtin"},
        rankings={"all": {"rankings": 2024}},
        data=DATA,
        reward={"loss": 0.61, "by_group": {"expert": {"accuracy": 0.8}}},
        base=base,
    )


class Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data
