"""A TCP proxy that does to a connection what networks do: cut, reset, swallow, drip, hang up."""

import asyncio
import random
import socket
import struct
import threading
from typing import Any

CALM = "calm"
FAULTS = ("cut", "reset", "black_hole", "black_hole_up", "black_hole_down", "drip", "accept_then_close")
"""cut: each connection ends in the middle of what comes next; reset: at once, with a TCP reset; black hole: nothing
passes, both ways or one, and nobody is told; drip: 200 bytes a second; accept then close: no connection is served."""

DRIP_BYTES, DRIP_S = 20, 0.1


class Proxy:
    """Between this machine's `port` and a broker's, in a thread of its own.

    Parameters
    ----------
    target
        Port of the broker on 127.0.0.1.
    seed
        Of where packets are cut.
    """

    def __init__(self, target: int, seed: int) -> None:
        self.target, self.mode = target, CALM
        self._random = random.Random(seed)
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def be(self, mode: str) -> None:
        """Do one of `FAULTS` to what is connected and to what connects, or be "calm"."""
        asyncio.run_coroutine_threadsafe(self._change(mode), self._loop).result(30)

    def close(self) -> None:
        """End all connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _change(self, mode: str) -> None:
        was, self.mode = self.mode, mode
        if mode in ("reset", "accept_then_close") or was.startswith("black_hole"):
            # What was swallowed is missing from the stream, so a connection cannot go on after a black hole.
            self._drop_all()

    async def _end(self) -> None:
        self._server.close()
        self._drop_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _drop_all(self) -> None:
        for pair in list(self._pairs):
            for writer in pair:
                _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode in ("accept_then_close", "reset"):
            _reset(writer)
            return
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _reset(writer)
            return
        pair = (writer, far)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(reader, far, "black_hole_up", pair), self._pump(far_reader, writer, "black_hole_down", pair)
            )
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hole: str, pair: tuple[Any, Any]
    ) -> None:
        try:
            while data := await reader.read(65536):
                if self.mode in ("black_hole", hole):
                    continue
                if self.mode == "cut":
                    writer.write(data[: self._random.randrange(len(data))])
                    await writer.drain()
                    break
                if self.mode == "drip":
                    await self._drip(writer, data)
                    continue
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        for end in pair:
            end.close()

    async def _drip(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for start in range(0, len(data), DRIP_BYTES):
            writer.write(data[start : start + DRIP_BYTES])
            await writer.drain()
            if self.mode == "drip":
                await asyncio.sleep(DRIP_S)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, with a reset in place of a farewell."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
