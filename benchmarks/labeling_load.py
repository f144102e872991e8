"""A load on the labeling app: people who open a page, think and send the form, while the server is killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from labeling.web.security import COOKIE

KEY = re.compile(r'name="key" value="([^"]+)"')


@dataclass
class Load:
    """What is asked of the server.

    Attributes:
        people: labelers at once.
        judgments: judgments in all.
        pause: mean seconds between a page and its answer, uniform between half and one and a half of it.
        kills: how often the server is killed, spread over the run.
        interface: `pages`, what a browser does (send the form, whose response is the next item's page), or
            `api`, what a program does (the same in JSON).
    """

    people: int = 200
    judgments: int = 20_000
    pause: float = 1.0
    kills: int = 0
    interface: str = "pages"


@dataclass
class Seen:
    """What the labelers saw."""

    left: int
    acknowledged: list[tuple[int, str]] = field(default_factory=list)  # labeler and key
    latencies: list[float] = field(default_factory=list)  # seconds, form to next item
    retries: int = 0


class Server:
    """The app as a process, on a fixed port, so that it can be started again, on one core if one is named."""

    def __init__(self, database: str, core: int | None = None) -> None:
        self.core = core
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.database = database
        self.start()

    @property
    def url(self) -> str:
        """The address of the app."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait until it listens."""
        app = [sys.executable, "-m", "labeling", "--db", self.database]
        command = [*app, "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.core is not None:
            os.sched_setaffinity(self.process.pid, {self.core})  # before it has threads, which inherit it
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("labeling app"):
                return
        raise RuntimeError("the server did not start")

    def kill(self) -> None:
        """Send SIGKILL, as the out-of-memory killer would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Send SIGTERM, and wait until the app has ended."""
        self.process.terminate()
        self.process.wait(30)


async def labeler(number: int, token: str, url: str, queue: int, load: Load, seen: Seen) -> None:
    """One person, who opens the page, thinks, answers, and does so again."""
    rng = random.Random(number)
    headers = {"Cookie": f"{COOKIE}={token}", "Sec-Fetch-Site": "same-origin"}
    if load.interface == "api":
        headers = {"Authorization": f"Bearer {token}"}
    page = f"{url}/work/{queue}"
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(headers=headers, connector=connector, auto_decompress=False) as session:
        await asyncio.sleep(rng.uniform(0, load.pause))
        key = await (
            take(session, url, queue, seen) if load.interface == "api" else open_page(session, page, seen)
        )
        while key and seen.left > 0:
            seen.left -= 1
            await asyncio.sleep(rng.uniform(0.5 * load.pause, 1.5 * load.pause))
            started = time.perf_counter()
            point, sent = rng.randint(1, 9), key
            if load.interface == "api":
                body = {"key": sent, "choice": {"scale": point}}
                key = await call(session, f"{url}/api/labels", body, seen)
            else:
                key = await open_page(session, page, seen, {"key": sent, "scale": str(point)})
            seen.acknowledged.append((number, sent))
            seen.latencies.append(time.perf_counter() - started)


async def take(session: aiohttp.ClientSession, url: str, queue: int, seen: Seen) -> str | None:
    """Take an item through the API; its key."""
    return await call(session, f"{url}/api/queues/{queue}/next", {}, seen)


async def call(session: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Seen) -> str | None:
    """Call the API until it answers; the key of the item that it brings, or None."""
    while True:
        try:
            async with session.post(url, json=body) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {text}")
                item = json.loads(text)["item"]
                return item and item["key"]
        except (aiohttp.ClientError, OSError):
            seen.retries += 1
            await asyncio.sleep(0.1)


async def open_page(
    session: aiohttp.ClientSession, page: str, seen: Seen, form: dict[str, str] | None = None
) -> str | None:
    """Open the page, or send its form, until the next page comes; its key, or None when nothing is left."""
    while True:
        try:
            async with session.request("POST" if form else "GET", page, data=form) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {text}")
                match = KEY.search(text.split('id="answer"', 1)[-1])
                return match[1] if match else None
        except (aiohttp.ClientError, OSError):
            seen.retries += 1
            await asyncio.sleep(0.1)


async def drive(server: Server, queue: int, tokens: list[str], load: Load) -> Seen:
    """All labelers at once, and the kills."""
    seen = Seen(left=load.judgments)
    work = [
        asyncio.create_task(labeler(number, token, server.url, queue, load, seen))
        for number, token in enumerate(tokens, start=1)
    ]
    marks = [load.judgments * (i + 1) // (load.kills + 1) for i in range(load.kills)]
    for mark in marks:
        while len(seen.acknowledged) < mark and not all(task.done() for task in work):
            await asyncio.sleep(0.005)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await asyncio.gather(*work)
    return seen
