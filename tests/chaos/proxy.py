"""A TCP proxy before a service, which can be taken away, slowed down or made to break connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

Mode = Literal["well", "down", "slow", "failing"]
MODES: tuple[Mode, ...] = ("down", "slow", "failing")
CHUNK = 65_536


class Proxy:
    """A proxy on a port of this machine; `mode` may change at any time.

    Attributes:
        port: where it listens.
        mode: `well` passes everything on. `down` refuses connections and breaks those that there are, `slow`
            holds every request back for `delay` seconds, `failing` accepts connections and breaks each at its
            first request.
        touched: requests that were not treated well.
    """

    def __init__(self, upstream: tuple[str, int] | Path, delay: float = 5.0) -> None:
        self.upstream, self.delay = upstream, delay
        self.mode: Mode = "well"
        self.port, self.touched = 0, 0
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Listen, on a free port."""
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        """Close everything."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def become(self, mode: Mode) -> None:
        """Change the mode, for the connections that there are as well."""
        self.mode = mode
        if mode == "down":
            self._do(self._close())
        elif self._server is None:
            self._do(self._listen())

    def _do(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            if isinstance(self.upstream, Path):
                upstream_reader, upstream = await asyncio.open_unix_connection(str(self.upstream))
            else:
                upstream_reader, upstream = await asyncio.open_connection(*self.upstream)
            ends.append(upstream)
            self._open.add(upstream)
            answers = asyncio.create_task(self._pass_on(upstream_reader, writer, False))
            await self._pass_on(reader, upstream, True)
            await answers
        for end in ends:
            self._open.discard(end)
            with suppress(OSError):
                end.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if requests and self.mode != "well":
                    self.touched += 1
                    if self.mode == "failing":
                        break
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof() if writer.can_write_eof() and self.mode == "well" else writer.close()


@contextmanager
def proxy(upstream: tuple[str, int] | Path, delay: float = 5.0) -> Iterator[Proxy]:
    """A proxy before a service for the block.

    Args:
        upstream: host and port, or the path of a Unix socket.
        delay: seconds that a slow answer takes.
    """
    opened = Proxy(upstream, delay)
    opened.start()
    try:
        yield opened
    finally:
        opened.stop()
