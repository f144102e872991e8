"""A running server of a small policy, and what asks it: fixtures of the tests of serving."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import uvicorn
from chat_policies import small_policy
from conftest import PATIENCE, free_port
from openai import OpenAI

from flows.serving.app import Served, create_app
from flows.serving.engine import Engine
from rlhf.models.policy import Policy

HI = [{"role": "user", "content": "How are you today?"}]
TURNS = [{"role": "system", "content": "Be brief."}, *HI, {"role": "assistant", "content": "Well."}, *HI]
LONGEST = 24


@contextmanager
def server(policy: Policy, key: str | None = None, **engine: Any) -> Iterator[tuple[OpenAI, Engine]]:
    """A running server of this policy: a client of it, and its engine."""
    port, sampling = free_port(), Engine(policy, **engine)
    served = Served(("policy", "policy/1"), "fp_1", 0.7, LONGEST, 0)
    config = uvicorn.Config(create_app(sampling, served, key), port=port, log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        wait_until(lambda: running.started)
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            yield client, sampling
    finally:
        running.should_exit = True
        thread.join()


def wait_until(holds: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return small_policy()


@pytest.fixture(scope="module")
def running(policy: Policy) -> Iterator[tuple[OpenAI, Engine]]:
    with server(policy) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(running: tuple[OpenAI, Engine]) -> OpenAI:
    return running[0]


def ask(client: OpenAI, messages: Any = HI, **more: Any) -> Any:
    return client.chat.completions.create(model="policy", messages=messages, **more)


def streamed(chunks: Any) -> tuple[dict[int, str], dict[int, str], Any]:
    """The texts and the reasons of the choices of a stream, and its usage."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage = None
    for chunk in chunks:
        usage = usage or chunk.usage
        for choice in chunk.choices:
            piece = choice.text if hasattr(choice, "text") else choice.delta.content
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage
