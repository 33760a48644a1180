"""A proxy on loopback that counts round trips: how often a client speaks after its server had spoken, or for the first time.

A pipeline is one round trip, whatever it carries. Only for passes that are not timed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from threading import Thread

_CHUNK = 1 << 20


class Proxy:
    """`port` here leads to `upstream`: (host, port), or a unix socket's path."""

    def __init__(self, upstream: tuple[str, int] | str) -> None:
        self._upstream = upstream
        self.trips = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> asyncio.Server:
        """Listen on a free port, in the running loop."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = self._upstream
        up_reader, up_writer = (
            await asyncio.open_unix_connection(there)
            if isinstance(there, str)
            else await asyncio.open_connection(*there)
        )
        self._writers |= {writer, up_writer}
        waiting = False

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asks: bool) -> None:
            nonlocal waiting
            try:
                while data := await source.read(_CHUNK):
                    self.trips += asks and not waiting
                    waiting = asks
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass  # whoever hung up, both ends are closed
            finally:
                sink.close()

        await asyncio.gather(pump(reader, up_writer, asks=True), pump(up_reader, writer, asks=False))
        self._writers -= {writer, up_writer}


@contextmanager
def proxies(*upstreams: tuple[str, int] | str) -> Iterator[tuple[Proxy, ...]]:
    """A running proxy for each upstream, all in one thread."""
    made = tuple(Proxy(upstream) for upstream in upstreams)
    ready: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for one in made:
                await stack.enter_async_context(await one.listen())
            ready.set_result(lambda: loop.call_soon_threadsafe(stop.set))
            await stop.wait()
            for one in made:
                one.hang_up()

    thread = Thread(target=asyncio.run, args=(serve(),), name="proxy", daemon=True)
    thread.start()
    stop = ready.result(5)
    try:
        yield made
    finally:
        stop()
        thread.join(5)
