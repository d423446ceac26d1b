"""The loop of one stream, the same in the daemon, in replay and in the tests."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from holdover.runtime.alert import Alert, ModelId, Phase, Scene, iso_time
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.anomaly import Anomaly, Judged
from holdover.runtime.detect.anomaly_options import AnomalyOptions
from holdover.runtime.detect.beats import Beats
from holdover.runtime.detect.chain import Chain
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.rule import FAMILIES, RULES, SIGNAL_RULES, Rule, SignalRule
from holdover.runtime.engine import Engine
from holdover.runtime.errors import ContractError
from holdover.runtime.quality import Lost, Piece, Quality, Usable
from holdover.runtime.snapshot import Memory
from holdover.runtime.stream import Stream
from holdover.runtime.wall_clock import WallClock

ANOMALY = 99
"""Place of the anomaly detector after the rules that speak at one sample."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a chunk led to, in order of the sample clock; everything before sample `until` has been said."""

    annotations: list[Annotation] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    until: int = 0


class Watch:
    """Chunk in, annotations and alerts out: quality, stream, beats, rules, chains.

    What it says depends on the samples alone, not on how they are cut into chunks.

    Parameters
    ----------
    engine
        The model; many watches may share one.
    scene
        Whose signal this is; its `rate_hz` is the source's.
    limits
        Of the rules.
    live
        The time of day follows `Chunk.arrived`, as the clock of a device drifts; else it is by the scene's rate alone.
    told
        Called with each sample that an anomaly detector has judged.
    """

    def __init__(
        self,
        engine: Engine,
        scene: Scene,
        limits: Limits | None = None,
        live: bool = False,
        told: Callable[[Judged], None] | None = None,
    ) -> None:
        self.scene = scene
        self._wall = WallClock(scene.rate_hz, scene.epoch) if live and scene.epoch is not None else None
        self.stream = Stream(engine, scene.rate_hz)
        limits = limits or Limits()
        self._beats, names, options = _detectors(engine)
        self._anomaly = Anomaly(engine.contract, options, scene, limits, told) if options else None
        settles = [self._beats.settle] if self._beats else [o.settle for o in engine.contract.outputs]
        settle = math.ceil(max(settles) * self.stream.ratio)
        self._millivolts = all(channel.unit == "mV" for channel in engine.contract.signal.channels)
        self.quality = Quality(scene.rate_hz, limits, settle, limits.signal if self._millivolts else None)
        self._signal_rules: dict[str, SignalRule] = {
            name: SIGNAL_RULES[name](scene.rate_hz, limits) for name in SIGNAL_RULES if name in names
        }
        self._rules: dict[str, Rule] = {name: RULES[name](scene.rate_hz, limits) for name in RULES if name in names}
        self._chain = Chain(scene.rate_hz, limits)
        self._phases: list[tuple[int, int, Phase]] = []
        self._marks: list[Annotation] = []
        self._seq: dict[tuple[str, int], tuple[int, float | None]] = {}
        self._known = 0

    @property
    def delay_s(self) -> float:
        """Seconds of signal from a beat until it is called: resampler, model, hop, and the look around a peak."""
        if self._beats is None:
            return self.stream.delay / self.scene.rate_hz
        return self._spoken_s(max(o.delay for o in self._beats.outputs)) + self._beats.look_s

    @property
    def silence_delay_s(self) -> float:
        """Seconds of signal from a place until it is certain that no beat lies before it: what an asystole waits."""
        event = self.stream.contract.by_meaning("event_logit")
        if self._beats is None or event is None:
            return self.stream.delay / self.scene.rate_hz
        return self._spoken_s(event.delay) + self._beats.silence_s

    def _spoken_s(self, delay: int) -> float:
        """Seconds of signal until an output of that delay has spoken of a sample."""
        sooner = (self.stream.contract.max_delay - delay) * self.stream.ratio
        return float(self.stream.delay - sooner) / self.scene.rate_hz

    @property
    def heart_rate_bpm(self) -> float | None:
        """The heart rate now, None where no rule computes it or too few beats were seen."""
        return next((r.bpm for r in self._rules.values() if hasattr(r, "bpm")), None)

    @property
    def calibrating(self) -> bool:
        """Whether the detector of anomalies does not know enough of the signal yet."""
        return self._anomaly is not None and self._anomaly.calibrating

    def time(self, sample: int) -> str | None:
        """The time of day of a sample, as alerts write it; None if unknown."""
        return iso_time(self._wall.time(sample)) if self._wall else self.scene.time(sample)

    def check_limits(self, limits: Limits) -> None:
        """Raise `ConfigError` where limits contradict one another for this signal."""
        if self._millivolts:
            limits.check_ecg()

    def set_limits(self, limits: Limits) -> None:
        """Judge by other limits from here on; what is open stays open. Call `check_limits` before."""
        self.check_limits(limits)
        self.quality.limits = self._chain.limits = limits
        self.quality.signal = limits.signal if self._millivolts else None
        for rule in (*self._judges, *([self._anomaly] if self._anomaly else [])):
            rule.limits = limits

    @property
    def _judges(self) -> tuple[Rule | SignalRule, ...]:
        """All rules; those on samples come first where both speak at one sample."""
        return (*self._signal_rules.values(), *self._rules.values())

    def push(self, chunk: Chunk) -> Step:
        """Take the next chunk, of any number of samples, even none."""
        if self._wall:
            self._wall.push(chunk)
        for piece in _joined(self.quality.push(chunk)):
            if isinstance(piece, Usable):
                self._run(piece)
            elif isinstance(piece, Lost):
                self._end(piece.at, piece.known, "signal_lost")
            elif isinstance(piece, Annotation):
                self._marks.append(piece)
            else:
                self._phases.append((piece.at, 0, piece))
        return self._release(min(self.quality.until, self._known) if self.quality.running else self.quality.until)

    def finish(self) -> Step:
        """The input has ended: say what is left, and close what is open."""
        end = self.quality.until
        self._end(end, end, "input_ended")
        self._phases += [(p.at, 0, p) for p in self.quality.finish() if isinstance(p, Phase)]
        return self._release(None)

    def _run(self, piece: Usable) -> None:
        chunk = piece.chunk
        for i, rule in enumerate(self._signal_rules.values(), 1):
            self._phases += [(p.at, i, p) for p in rule.update(chunk)]
        frames = self.stream.push(chunk)
        if self._anomaly is not None:
            self._anomaly.bridge(chunk.at, piece.bridged)
            self._phases += [(p.at, ANOMALY, p) for p in self._anomaly.update(frames)]
        if self._beats is None:
            self._known = frames.until
            return
        heard = self._beats.listens(frames)
        for on_beats in self._rules.values():
            on_beats.listen(heard)
        beats, self._known = self._beats.update(frames)
        self._judge(beats)

    def _judge(self, beats: list[Annotation]) -> None:
        self._marks += beats
        for i, rule in enumerate(self._rules.values(), 1 + len(self._signal_rules)):
            self._phases += [(p.at, i, p) for p in rule.update(beats, self._known)]

    def _end(self, end: int, known: int, reason: Any) -> None:
        frames = self.stream.finish()
        if self._anomaly is not None:
            phases = [*self._anomaly.update(frames), *self._anomaly.interrupt(end, known, reason)]
            self._phases += [(p.at, ANOMALY, p) for p in phases]
        if self._beats is not None:
            beats, self._known = self._beats.update(frames, last=True)
            self._judge([b for b in beats if b.at < end])
            self._beats.reset()
        for i, rule in enumerate(self._judges, 1):
            self._phases += [(p.at, i, p) for p in rule.interrupt(end, known, reason)]
        self._known = end

    def _release(self, until: int | None) -> Step:
        """Hand out what lies before the watermark, in order; None: all."""
        phases, self._phases = _split(sorted(self._phases, key=lambda p: p[:2]), until, lambda p: p[0])
        marks, self._marks = _split(sorted(self._marks, key=lambda m: m.at), until, lambda m: m.at)
        said = [phase for _, _, raised in phases for phase in self._chain.push(raised)]
        if until is not None:
            said += self._chain.due(until)
        return Step(marks, [self._alert(phase) for phase in said], self._known if until is None else until)

    def _alert(self, phase: Phase) -> Alert:
        key = (phase.label, phase.onset)
        seq, onset_s = self._seq.pop(key, (0, self._wall.time(phase.onset) if self._wall else None))
        if phase.phase != "end":
            self._seq[key] = (seq + 1, onset_s)
        if self._wall is None or onset_s is None:
            return Alert(self.scene, phase, seq)
        end_s = None if phase.end is None else self._wall.time(phase.end)
        return Alert(self.scene, phase, seq, (onset_s, self._wall.time(phase.at), end_s))

    def snapshot(self) -> Memory:
        """Everything that is carried, of all parts."""
        return {
            "stream": self.stream.snapshot(),
            "quality": self.quality.snapshot(),
            "beats": None if self._beats is None else self._beats.snapshot(),
            "anomaly": None if self._anomaly is None else self._anomaly.snapshot(),
            "rules": {name: rule.snapshot() for name, rule in (self._signal_rules | self._rules).items()},
            "chain": self._chain.snapshot(),
            "phases": [(at, i, msgspec.to_builtins(phase)) for at, i, phase in self._phases],
            "marks": [msgspec.to_builtins(mark) for mark in self._marks],
            "seq": [(label, onset, seq, onset_s) for (label, onset), (seq, onset_s) in self._seq.items()],
            "wall": None if self._wall is None else self._wall.snapshot(),
            "known": self._known,
        }

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave; `ModelError` if it is another model's."""
        self.stream.restore(memory["stream"])
        self.quality.restore(memory["quality"])
        if self._beats is not None:
            self._beats.restore(memory["beats"])
        if self._anomaly is not None:
            self._anomaly.restore(memory["anomaly"])
        for name, rule in (self._signal_rules | self._rules).items():
            rule.restore(memory["rules"][name])
        self._chain.restore(memory["chain"])
        self._phases = [(at, i, msgspec.convert(phase, Phase)) for at, i, phase in memory["phases"]]
        self._marks = [msgspec.convert(mark, Annotation) for mark in memory["marks"]]
        self._seq = {(label, onset): (seq, onset_s) for label, onset, seq, onset_s in memory["seq"]}
        if self._wall is not None:
            self._wall.restore(memory["wall"])
        self._known = memory["known"]


def model_id(engine: Engine) -> ModelId:
    """Which model an engine holds."""
    return ModelId(engine.contract.name, engine.contract.model_version, engine.sha256)


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same, with stretches that follow one another made one: what is usable is cut where a doubt begins or ends."""
    kept: list[Usable] = []
    for piece in pieces:
        goes_on = kept and isinstance(piece, Usable) and not piece.bridged and piece.chunk.at == kept[-1].chunk.end
        if kept and not goes_on and isinstance(piece, Usable | Lost):
            yield _one(kept)
            kept = []
        if isinstance(piece, Usable):
            kept.append(piece)
        else:
            yield piece
    if kept:
        yield _one(kept)


def _one(pieces: Sequence[Usable]) -> Usable:
    first, *more = pieces
    if not more:
        return first
    return Usable(Chunk(first.chunk.at, np.concatenate([p.chunk.x for p in pieces])), first.bridged)


def _detectors(engine: Engine) -> tuple[Beats | None, frozenset[str], AnomalyOptions | None]:
    """What finds beats, the names of the rules in the families that the contract names, and what anomalies are."""
    beats, names, anomaly = None, set[str](), None
    for table in engine.contract.detectors:
        options = dict(table)
        kind = options.pop("kind", None)
        if kind == "beats":
            beats = _beats(engine, options)
        elif kind == "anomaly":
            if anomaly is not None:
                raise ContractError("the contract names the detector 'anomaly' twice; one judges all channels")
            anomaly = AnomalyOptions.of(options)
        elif kind in FAMILIES:
            if options:
                raise ContractError(f"the contract's detector {kind!r} takes no options, found {sorted(options)}")
            names.update(FAMILIES[kind])
        else:
            raise ContractError(
                f"the contract names a detector {kind!r}; there are beats, anomaly, {', '.join(FAMILIES)}"
            )
    if names and beats is None:
        raise ContractError(
            f"the contract's detectors {', '.join(sorted(names))} judge beats, and none is named that finds them"
        )
    if "atrial_fibrillation" in names and engine.contract.by_meaning("rhythm_logits") is None:
        raise ContractError("the detector 'rhythm' needs an output of meaning rhythm_logits, which this model lacks")
    if engine.contract.signal.channels[0].unit != "mV":
        names -= SIGNAL_RULES.keys()
    return beats, frozenset(names), anomaly


def _beats(engine: Engine, options: dict[str, Any]) -> Beats:
    try:
        return Beats(engine.contract, **options)
    except TypeError as error:
        raise ContractError(f"the contract's detector 'beats' has options that do not fit: {error}") from error


def _split(items: Sequence[Any], until: int | None, at: Any) -> tuple[list[Any], list[Any]]:
    """Items in order, cut at the watermark."""
    n = len(items) if until is None else sum(1 for item in items if at(item) < until)
    return list(items[:n]), list(items[n:])


def bodies(alerts: Iterable[Alert]) -> bytes:
    """The bodies as JSON lines: what live, resumed and replayed runs share byte for byte."""
    return b"".join(alert.body_json() + b"\n" for alert in alerts)
