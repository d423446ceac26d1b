"""`holdover run`: the daemon. Streams in, alerts over MQTT out.

Runs every stream of a configuration over one model and one ledger. SIGTERM
and Ctrl-C save and end; SIGHUP reads the limits again. When all inputs have
ended (files), it delivers what waits and ends."""

import argparse
import logging
import os
import signal
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.apps.config import Config
    from holdover.apps.inlet import Inlet
    from holdover.apps.metrics import MetricsServer
    from holdover.apps.post import Post
    from holdover.apps.status import Beacon

    Outlet = Beacon | MetricsServer

from holdover.apps.log_form import log_to_stderr
from holdover.apps.notify import Pulse, notify, watchdog_s
from holdover.runtime.errors import ConfigError, HoldoverError, LedgerError

log = logging.getLogger("holdover.daemon")

EPILOG = """\
kinds of source: serial, tcp, udp, stdin (lines of text, or frames), and those
that 'holdover devices list' shows; wfdb, csv, npz, edf (files; `speed` times
real time; csv also while it grows: follow = true).

a configuration:
  [mqtt]
  host = "localhost"
  [[streams]]
  id = "bed-3"
  source = { kind = "tcp", port = 9000, listen = true, rate_hz = 250 }
  lead = "II"

'holdover config check FILE' checks it, 'holdover config schema' tells all keys."""

DRAIN_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover run`."""
    parser.add_argument("config", metavar="CONFIG.toml", help="the configuration")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    parser.add_argument(
        "--log", choices=("text", "json", "journal"), help="form of the log (default: text, or journal under systemd)"
    )
    parser.add_argument(
        "--metrics",
        type=int,
        metavar="PORT",
        help="for Prometheus, in place of [metrics] port: http://127.0.0.1:PORT/metrics",
    )


def run(args: argparse.Namespace) -> int:
    """Run until told to stop, or until all inputs have ended.

    Raises
    ------
    HoldoverError
        The configuration, the model, a source or the ledger cannot be used; or the input of the last stream that was
        left failed.
    """
    log_to_stderr(args.log, args.verbose)
    asked = Asked()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, asked.hear)
    return Daemon(_settled(args.config), Path(args.config), asked, args.metrics).run()


def _settled(path: str) -> "Config":
    """The configuration, with what a service manager gives in its place."""
    from holdover.apps.config import read_config
    from holdover.apps.service import settle

    config = read_config(path)
    settle(config, Path(path).parent, os.environ)
    return config


class Asked:
    """What signals have asked for; the handlers only note it, and the loop obeys."""

    def __init__(self) -> None:
        self.stop = self.reload = False

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal: SIGHUP asks to read the limits again, all others to save and end."""
        if number == signal.SIGHUP:
            self.reload = True
        else:
            self.stop = True


class Daemon:
    """The main loop: it alone owns the ledger, the journals and the watches; threads only read and connect."""

    def __init__(self, config: "Config", path: Path, asked: Asked, metrics_port: int | None = None) -> None:
        from holdover.apps.bulletin import Bulletin
        from holdover.apps.metrics import Board
        from holdover.apps.model.serving import ServingModel
        from holdover.runtime.delivery import Delivery
        from holdover.runtime.ledger import Ledger
        from holdover.runtime.sinks.mqtt import MqttSink
        from holdover.runtime.wire import ModelInfo

        self._config, self._path = config, path
        self._asked, self._metrics_port = asked, metrics_port or config.metrics.port
        self._said_trouble = ""
        room = config.ledger
        self._ledger = Ledger(
            room.path, room.max_mb, max_rows=room.max_rows, max_age_s=room.max_age_h * 3600, confirm=config.mqtt.confirm
        )
        if self._ledger.set_aside:
            log.warning("the ledger was damaged; it was set aside as %s, a new one begins", self._ledger.set_aside)
        self._sink = MqttSink(config.mqtt, config.node, uuid.uuid4().hex[:12])
        self._delivery = Delivery(self._ledger, self._sink)
        self._serving = ServingModel(config.model, config.models)
        self._engine = self._serving.engine
        self._posts = self._open_posts()
        self._pulse = Pulse(self._posts, watchdog_s() or 0.0)
        self._board = Board(config, path, self._engine, self._ledger, self._sink, self._posts, self._pulse)
        contract, sha256 = self._engine.contract, self._engine.sha256
        standing, notice = self._serving.standing, self._serving.notice
        models = [ModelInfo(name=contract.name, version=contract.model_version, sha256=sha256, standing=standing,
                            notice=notice)]  # fmt: skip
        self._bulletin = Bulletin(self._sink, self._ledger, self._posts, models, config.home_assistant)

    def _open_posts(self) -> "list[Post]":
        from holdover.apps.post import Post

        posts: list[Post] = []
        try:
            for options in self._config.streams:
                posts.append(Post(options, self._config, self._engine, self._ledger))
                posts[-1].resume()
        except BaseException as error:
            self._serving.ended(error)
            for post in posts:
                post.close()
            self._ledger.close()
            raise
        return posts

    def run(self) -> int:
        """Run the loop; returns the exit code."""
        from holdover.apps.inlet import Inlet

        inlet = Inlet()
        try:
            outlets = self._open_outlets()
        except BaseException:
            self._close()
            raise
        self._pulse.watch("the broker's connection", self._sink.start, lambda: self._sink.stuck_s)
        self._bulletin.begin()
        for post in self._posts:
            post.start(self._pulse.noted(inlet.put))
        log.info("ready: %d stream(s), model %s, pid %d", len(self._posts), self._engine.contract.name, os.getpid())
        notify("READY=1")
        self._serving.ready()
        try:
            self._loop(inlet)
            self._take_rest(inlet)
            self._serving.ended()
        except BaseException as error:
            self._serving.ended(error)
            raise
        finally:
            notify("STOPPING=1")
            inlet.closed.set()
            for outlet in outlets:
                outlet.close()
            self._close()
        if any(post.waiting for post in self._posts):
            return LedgerError.exit_code
        failed = [post.failed for post in self._posts if post.failed]
        return failed[0].exit_code if failed and all(post.ended for post in self._posts) else 0

    def _open_outlets(self) -> "list[Outlet]":
        """Let others ask how the daemon stands."""
        from holdover.apps.metrics import MetricsServer
        from holdover.apps.status import Beacon, socket_beside

        outlets: list[Outlet] = []
        if self._metrics_port is not None:
            outlets.append(MetricsServer(self._metrics_port, self._board.exposition))
            self._pulse.watch("the metrics", outlets[0].start)
        place = socket_beside(self._ledger.path)
        try:
            beacon = Beacon(place, self._board.answer)
        except OSError as error:
            log.warning("'holdover status' will find nobody: %s cannot be made (%s)", place, error)
        else:
            outlets.append(beacon)
            self._pulse.watch("the status", beacon.start)
        return outlets

    def _loop(self, inlet: "Inlet") -> None:
        pause_s = watchdog_s() or 10.0
        alive = drain = 0.0
        while not self._asked.stop:
            if self._asked.reload:
                self._reload()
            got = inlet.get(0.05)
            if got is not None:
                post, item = got
                post.take(item)
            for post in self._posts:
                post.tick()
            self._deliver()
            now = time.monotonic()
            self._board.turn(now)
            if now - alive > pause_s:
                alive = now
                self._serving.tick(max((post.lag_s or 0.0 for post in self._posts), default=0.0))
                self._tell_manager()
            if all(post.ended for post in self._posts):
                if not drain and not self._drained():
                    log.info("all inputs have ended; waiting up to %.0f s for the broker to take what is left", DRAIN_S)
                drain = drain or now + DRAIN_S
                if self._drained() or now > drain:
                    return

    def _take_rest(self, inlet: "Inlet") -> None:
        """Take what live sources had given before the end; a file is read again from its checkpoint."""
        from holdover.runtime.chunk import Chunk

        inlet.closed.set()
        while (got := inlet.get(0.0)) is not None:
            post, item = got
            if post.is_live and isinstance(item, Chunk):
                post.take(item)

    def _deliver(self) -> None:
        """Publish what the ledger holds, and what else has changed."""
        for topic, payload in self._delivery.turn():
            self._bulletin.hear(topic, payload)
        self._bulletin.turn()

    def _drained(self) -> bool:
        return (
            not any(post.waiting for post in self._posts)
            and self._ledger.depth()[0] == 0
            and not self._ledger.dropped()
        )

    def _reload(self) -> None:
        from holdover.apps.config import read_config

        self._asked.reload = False
        try:
            config = read_config(self._path)
            limits = {stream.id: config.limits_of(stream) for stream in config.streams}
            for post in self._posts:
                post.check_limits(limits.get(post.id))
        except ConfigError as error:
            log.error("the limits stay as they were: %s", error)
            return
        for post in self._posts:
            if post.id in limits:
                post.set_limits(limits[post.id])
        log.info("limits read again from %s", self._path)

    def _tell_manager(self) -> None:
        """Say that we live, if we do; else why not, once each."""
        trouble = self._pulse.trouble()
        if trouble and not self._said_trouble:
            log.error("%s: the service manager is not told that the daemon lives", trouble)
        elif self._said_trouble and not trouble:
            log.info("all threads live, and samples flow again")
        self._said_trouble = trouble
        notify(f"STATUS={trouble}" if trouble else f"WATCHDOG=1\nSTATUS={self._status()}")

    def _status(self) -> str:
        rows, oldest_s = self._ledger.depth()
        running = sum(post.signal for post in self._posts)
        unsaved = sum(post.waiting for post in self._posts)
        full = f"; the ledger takes nothing, {unsaved} alerts wait in memory" if unsaved else ""
        return f"{running} of {len(self._posts)} streams running, {rows} alerts waiting ({oldest_s:.0f} s){full}"

    def _close(self) -> None:
        for post in self._posts:
            try:
                post.close()
            except HoldoverError as error:
                log.error("%s: %s", post.id, error)
        self._bulletin.end()
        try:
            self._delivery.close(5.0)
        except HoldoverError as error:
            log.error("%s", error)
        rows, _ = self._ledger.depth()
        if rows:
            log.warning("%d alert(s) wait in %s; they go out at the next start", rows, self._config.ledger.path)
        self._ledger.close()
