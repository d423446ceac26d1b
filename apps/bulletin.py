"""What a daemon says beside its alerts: who it is, how it is, how each stream stands, and to Home Assistant."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from holdover import __version__
from holdover.apps.config import HomeAssistantOptions
from holdover.devices.boards.host import resident_mb, temperature_c, throttled
from holdover.runtime.ledger import Ledger
from holdover.runtime.sinks.home_assistant import Place, node_device, stream_device
from holdover.runtime.sinks.mqtt import MqttSink
from holdover.runtime.wire import Health, Info, ModelInfo, StreamState, iso

if TYPE_CHECKING:
    from holdover.apps.post import Post

HEALTH_S = 30.0
HEALTH_EXPIRY_S = 90
STATE_EXPIRY_S = 3600
STATE_AGAIN_S = 1800.0
RATE_S = 10.0
"""Where nothing but the heart rate has changed, the state is said again no sooner."""


class Bulletin:
    """Tells the broker what has changed; used by the thread that owns the sink.

    Parameters
    ----------
    posts
        The streams.
    models
        What runs.
    """

    def __init__(
        self, sink: MqttSink, ledger: Ledger, posts: "Sequence[Post]", models: list[ModelInfo],
        home_assistant: HomeAssistantOptions,
    ) -> None:  # fmt: skip
        self._sink, self._ledger, self._posts = sink, ledger, posts
        self._home = home_assistant
        self._info = Info(
            version=__version__, boot_id=sink.boot_id, models=models, streams=[post.id for post in posts],
            home_assistant=home_assistant.enabled,
        )  # fmt: skip
        self._place = Place(sink.options.base, sink.node, home_assistant.prefix)
        self._birth = f"{home_assistant.prefix}/status"
        self._signals: dict[str, bool] = {}
        self._states: dict[str, tuple[StreamState, float]] = {}
        self._began = time.monotonic()
        self._well = -HEALTH_S

    def begin(self) -> None:
        """Say who this is, and ask what an earlier start has left."""
        self._sink.listen(self._sink.topic("info"))
        self._sink.retain(self._sink.topic("info"), msgspec.json.encode(self._info))
        if self._home.enabled:
            self._sink.listen(self._birth)
            self._announce()

    def hear(self, topic: str, payload: bytes) -> None:
        """Take what came: Home Assistant starts, or what an earlier start of this node said of itself."""
        if topic == self._birth and payload == b"online":
            self._announce()
        elif topic == self._sink.topic("info"):
            try:
                before = msgspec.json.decode(payload, type=Info)
            except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
                return
            if before.boot_id != self._info.boot_id:
                self._clear(before)

    def turn(self) -> None:
        """Say what has changed since the last time."""
        now = time.monotonic()
        for post in self._posts:
            if self._signals.get(post.id) != post.signal:
                self._signals[post.id] = post.signal
                self._status(post.id, post.signal)
            self._state(post, now)
        if self._sink.connected and now - self._well >= HEALTH_S:
            self._well = now
            self._sink.mention(self._sink.topic("health"), msgspec.json.encode(self._health(now)), HEALTH_EXPIRY_S)

    def end(self) -> None:
        """The streams are no longer watched."""
        for post in self._posts:
            self._status(post.id, False)

    def _status(self, stream: str, signal: bool) -> None:
        self._sink.retain(self._sink.topic(f"streams/{stream}/status"), b"online" if signal else b"offline")

    def _state(self, post: "Post", now: float) -> None:
        state = post.state
        if state is None:
            return
        before, told = self._states.get(post.id, (None, -STATE_AGAIN_S))
        if before is None or _but_rate(state) != _but_rate(before):
            wait_s = 0.0
        else:
            wait_s = RATE_S if state.rate_bpm != before.rate_bpm else STATE_AGAIN_S
        if now - told >= wait_s:
            self._states[post.id] = (state, now)
            topic = self._sink.topic(f"streams/{post.id}/state")
            self._sink.retain(topic, msgspec.json.encode(state), STATE_EXPIRY_S)

    def _health(self, now: float) -> Health:
        waiting, oldest_s = self._ledger.depth()
        aside = self._ledger.set_aside
        return Health(
            time=iso(time.time()), uptime_s=round(now - self._began, 1), outbox=waiting, oldest_s=round(oldest_s, 1),
            dropped=self._ledger.count_dropped(), lag_s={post.id: post.lag_s for post in self._posts},
            ledger_mb=_megabytes(self._ledger.path), rss_mb=resident_mb(), temperature_c=temperature_c(),
            throttled=throttled(), ledger_set_aside=aside.name if aside else None,
            links={post.id: post.link for post in self._posts if post.link is not None},
        )  # fmt: skip

    def _announce(self) -> None:
        devices = [node_device(self._place), *(stream_device(self._place, stream) for stream in self._info.streams)]
        for topic, device in devices:
            self._sink.retain(topic, msgspec.json.encode(device))

    def _clear(self, before: Info) -> None:
        """Take back what is retained of streams that are no more, and of Home Assistant where it is no longer told."""
        gone = set(before.streams) - set(self._info.streams)
        topics = [self._sink.topic(f"streams/{stream}/{what}") for stream in gone for what in ("status", "state")]
        if before.home_assistant:
            told_now = self._info.streams if self._home.enabled else []
            topics += [stream_device(self._place, s)[0] for s in before.streams if s not in told_now]
            topics += [] if self._home.enabled else [node_device(self._place)[0]]
        for topic in topics:
            self._sink.retain(topic, b"")


def _but_rate(state: StreamState) -> tuple[object, ...]:
    return state.alarm, state.labels, state.priority, state.episode_id, state.quality


def _megabytes(path: Path) -> float:
    files = (path, path.with_name(path.name + "-wal"))
    return round(sum(file.stat().st_size for file in files if file.exists()) / 2**20, 3)
