"""One phase of one episode: what a detector says, and how it is written on the wire."""

import uuid
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

SCHEMA = "alert/1"
NOTICE = "not a medical device: for research and education, not for diagnosis or patient monitoring"
NAMESPACE = uuid.UUID("6f1d1f0e-6c0a-5d1b-9a53-8c1c3b1f2a10")

PhaseName = Literal["start", "update", "end"]
Priority = Literal["high", "medium", "low", "info"]
Kind = Literal["physiological", "technical"]
EndReason = Literal["recovered", "signal_lost", "input_ended", "superseded"]


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector says of an episode: it started, goes on, or ended.

    Attributes
    ----------
    label
        Name of the condition, such as "ventricular_tachycardia".
    onset
        Sample at which the episode began; the same in all its phases.
    at
        Sample at which this phase came true.
    end
        Sample at which the episode ended, in the phase "end" alone.
    score
        0 to 1, how sure (low: unsure), or None where a rule has no score.
    evidence
        What the decision rests on: beats, intervals, rates, with units in the names.
    """

    label: str
    phase: PhaseName
    onset: int
    at: int
    kind: Kind = "physiological"
    priority: Priority = "low"
    latched: bool = False
    end: int | None = None
    score: float | None = None
    evidence: dict[str, Any] = {}
    end_reason: EndReason | None = None


class ModelId(msgspec.Struct, frozen=True):
    """Which model judged."""

    name: str
    version: str
    sha256: str


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What all alerts of one stream share: whose signal, on which clock, by which model.

    `epoch` is the Unix time of sample 0, or None where the recording does not say when it was made.
    """

    stream: str
    lead: str
    rate_hz: float
    epoch: float | None
    model: ModelId

    def unix(self, sample: int | None) -> float | None:
        """The Unix time of a sample by the nominal rate, in seconds; None if unknown."""
        return None if sample is None or self.epoch is None else self.epoch + sample / self.rate_hz

    def time(self, sample: int | None) -> str | None:
        """The wall-clock time of a sample by the nominal rate, as `iso_time` writes it."""
        return iso_time(self.unix(sample))


def iso_time(unix_s: float | None) -> str | None:
    """A time in ISO 8601 (UTC, milliseconds), None if unknown or beyond the calendar."""
    if unix_s is None:
        return None
    try:
        when = datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Alert(msgspec.Struct, frozen=True):
    """A phase in its scene: the body that the input alone determines.

    `seq` counts the phases of the episode from 0. Ids are UUIDs of version 5, hashed from the body, so that the
    same input gives the same ids live, resumed and replayed.

    Attributes
    ----------
    times
        Unix times of `onset`, `at` and `end` of the phase, None for one that it has not; None altogether where the
        scene's nominal rate tells them.
    """

    scene: Scene
    phase: Phase
    seq: int
    times: tuple[float, float, float | None] | None = None

    @property
    def episode_id(self) -> str:
        """The same for all phases of one episode."""
        s, p = self.scene, self.phase
        return str(uuid.uuid5(NAMESPACE, _canonical([s.stream, s.model.sha256, s.epoch, p.label, p.onset]).decode()))

    def body(self) -> dict[str, Any]:
        """The wire format without the envelope, `event_id` included."""
        body = self._content()
        return {"event_id": str(uuid.uuid5(NAMESPACE, _canonical(body).decode())), **body}

    def body_json(self) -> bytes:
        """`body` in canonical JSON: sorted keys, no spaces; the bytes that replay and live share."""
        return _canonical(self.body())

    def _content(self) -> dict[str, Any]:
        s, p = self.scene, self.phase
        onset, event, end = self.times or (s.unix(p.onset), s.unix(p.at), s.unix(p.end))
        return {
            "schema": SCHEMA,
            "episode_id": self.episode_id,
            "phase": p.phase,
            "event_type": p.phase,
            "seq": self.seq,
            "label": p.label,
            "kind": p.kind,
            "priority": p.priority,
            "present": p.phase != "end",
            "latched": p.latched,
            "onset_sample": p.onset,
            "event_sample": p.at,
            "end_sample": p.end,
            "onset_time": iso_time(onset),
            "event_time": iso_time(event),
            "end_time": iso_time(end),
            "end_reason": p.end_reason,
            "score": None if p.score is None else round(p.score, 3),
            "evidence": p.evidence,
            "signal": {"rate_hz": s.rate_hz, "lead": s.lead},
            "stream": s.stream,
            "model": msgspec.to_builtins(s.model),
            "notice": NOTICE,
        }


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What is added on the way: who sent it, when, in which place of the order; never part of the identity.

    Attributes
    ----------
    stream_seq
        Counts the alerts of the stream from 1, kept in the ledger; a hole is a loss.
    latency_ms
        From the arrival of the last sample that was needed to the commit in the ledger; None for a file.
    historical
        Sent late, after an outage of the broker.
    resumed
        Decided from input that was read again after a restart.
    """

    node: str
    boot_id: str
    version: str
    stream_seq: int
    arrived_time: float | None = None
    latency_ms: float | None = None
    published_time: str | None = None
    resumed: bool = False
    historical: bool = False


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
