"""Between messages and values: the only place that does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from . import values
from .v1 import admin_pb2, detect_pb2, frames_pb2, results_pb2

C = TypeVar("C", bound=values.Choice)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)
_MS = timedelta(milliseconds=1)
_S = timedelta(seconds=1)

# --- to the wire --------------------------------------------------------------


def unix(name: str, when: datetime, unit: timedelta) -> int:
    """`when` in `unit` since the Unix epoch; parts of a unit are cut off."""
    if when.tzinfo is None or when.utcoffset() is None:
        raise ValueError(
            f"{name} = {when.isoformat()} has no time zone, and so is no instant: "
            "use datetime.now(timezone.utc), or .astimezone() if it is local time"
        )
    return (when - _EPOCH) // unit


def unix_ms(name: str, when: datetime) -> int:
    return unix(name, when, _MS)


def unix_s(name: str, when: datetime) -> int:
    return unix(name, when, _S)


def whole_seconds(name: str, length: timedelta) -> int:
    seconds, rest = divmod(length, _S)
    if rest or seconds <= 0:
        raise ValueError(f"{name} = {length}: use whole seconds, at least one")
    return seconds


def camera_ids(cameras: str | Iterable[str]) -> list[str]:
    """One id or several; a text is one id, not its letters."""
    return [cameras] if isinstance(cameras, str) else list(cameras)


# --- small parts --------------------------------------------------------------


def instant(unix_us: int) -> datetime:
    return _EPOCH + unix_us * _US


def _clock(unix_us: int) -> datetime | None:
    """By another's clock, which may be unset or far off."""
    try:
        return instant(unix_us) if unix_us else None
    except OverflowError:
        return None


def choice(kind: type[C], number: int) -> C | None:
    """None for a number that says nothing, or that a newer server knows."""
    try:
        return kind(number)
    except ValueError:
        return None


def _some(present: bool, value: int) -> int | None:
    return value if present else None


# --- results ------------------------------------------------------------------


def face_counts(wire: frames_pb2.FaceCounts) -> values.FaceCounts:
    return values.FaceCounts(wire.faces, wire.female, wire.male, wire.unknown)


def _track(wire: results_pb2.Track) -> values.Track:
    return values.Track(
        track_id=wire.track_id,
        is_visit=wire.is_visit,
        gender=choice(values.Gender, wire.gender),
        female_probability=wire.female_probability if wire.HasField("female_probability") else None,
        age=wire.age_ms * _MS,
    )


def face(wire: results_pb2.Face) -> values.Face:
    box = wire.box
    return values.Face(
        box=values.Box(box.x_px, box.y_px, box.width_px, box.height_px),
        score=wire.score,
        landmarks=tuple(values.Point(point.x_px, point.y_px) for point in wire.landmarks) or None,
        gender=choice(values.Gender, wire.gender),
        female_probability=wire.female_probability if wire.HasField("female_probability") else None,
        track=_track(wire.track) if wire.HasField("track") else None,
    )


def _crossing(wire: results_pb2.CrossingCounts, *, is_live: bool) -> values.CrossingCounts:
    return values.CrossingCounts(
        name=wire.name,
        kind=choice(values.CrossingKind, wire.kind),
        entered=face_counts(wire.entered),
        left=face_counts(wire.left),
        occupancy=wire.occupancy if is_live else None,
    )


def _camera_counts(wire: results_pb2.CameraCounts) -> values.CameraCounts:
    return values.CameraCounts(
        now=face_counts(wire.now) if wire.HasField("now") else None,
        visits=face_counts(wire.visits),
        crossings=tuple(_crossing(crossing, is_live=True) for crossing in wire.crossings),
        truncated=wire.truncated,
        uncertain=wire.uncertain,
    )


def result(wire: results_pb2.FrameResult) -> values.FrameResult:
    return values.FrameResult(
        position=values.Position(wire.server_epoch, wire.position),
        camera_id=wire.camera_id,
        session_id=wire.session_id,
        frame_number=wire.frame_number,
        observed=instant(wire.observed_unix_us),
        captured=_clock(wire.captured_unix_us),
        latency=wire.latency_us * _US,
        width_px=wire.width_px,
        height_px=wire.height_px,
        faces=None if wire.faces_withheld else tuple(map(face, wire.faces)),
        truncated=wire.truncated,
        detector=wire.detector,
        gender_model=wire.gender_model or None,
        counts=_camera_counts(wire.counts) if wire.HasField("counts") else None,
        late=wire.late,
        replica=wire.replica or None,
    )


def gap(wire: results_pb2.Gap) -> values.Gap:
    return values.Gap(wire.missed, wire.last_missed_position)


def elsewhere(wire: results_pb2.Elsewhere) -> values.Elsewhere:
    return values.Elsewhere(wire.is_heard, wire.detail)


def latest(wire: results_pb2.GetLatestResponse) -> values.Latest:
    return values.Latest(
        camera=camera(wire.camera),
        result=result(wire.result) if wire.HasField("result") else None,
        age=wire.age_ms * _MS if wire.HasField("age_ms") else None,
    )


def detected(wire: detect_pb2.DetectResponse) -> values.DetectedFaces:
    return values.DetectedFaces(
        width_px=wire.width_px,
        height_px=wire.height_px,
        faces=tuple(map(face, wire.faces)),
        truncated=wire.truncated,
        detector=wire.detector,
        gender_model=wire.gender_model or None,
        queued=wire.queued_us * _US,
        analysis=wire.analysis_us * _US,
    )


def snapshot(wire: results_pb2.Snapshot) -> values.Snapshot:
    return values.Snapshot(
        camera_id=wire.camera_id,
        jpeg=wire.jpeg,
        style=choice(values.SnapshotStyle, wire.style),
        age=wire.age_ms * _MS,
        state=choice(values.CameraState, wire.state),
        result=result(wire.result) if wire.HasField("result") else None,
    )


# --- cameras and incidents ----------------------------------------------------


def incident(wire: results_pb2.Incident) -> values.Incident:
    return values.Incident(
        incident_id=wire.incident_id,
        camera_id=wire.camera_id or None,
        kind=choice(values.IncidentKind, wire.kind),
        detail=wire.detail,
        started=instant(wire.started_unix_ms * 1000),
        ended=instant(wire.ended_unix_ms * 1000) if wire.HasField("ended_unix_ms") else None,
        replica=wire.replica or None,
    )


def incident_gap(wire: results_pb2.IncidentGap) -> values.IncidentGap:
    return values.IncidentGap(wire.missed)


def _answered(wire: Iterable[frames_pb2.OutcomeCount]) -> dict[values.Outcome | None, int]:
    counts: dict[values.Outcome | None, int] = {}
    for count in wire:
        outcome = choice(values.Outcome, count.outcome)
        counts[outcome] = counts.get(outcome, 0) + count.frames
    return counts


def _dropped(wire: Iterable[frames_pb2.DropCount]) -> dict[values.DropReason | None, int]:
    counts: dict[values.DropReason | None, int] = {}
    for count in wire:
        reason = choice(values.DropReason, count.reason)
        counts[reason] = counts.get(reason, 0) + count.frames
    return counts


def _ingest_ledger(wire: frames_pb2.IngestLedger) -> values.IngestLedger:
    return values.IngestLedger(
        captured=wire.captured,
        dropped=_dropped(wire.dropped),
        sent=wire.sent,
        answered=_answered(wire.answered),
        lost=wire.lost,
        waiting=wire.waiting,
        in_flight=wire.in_flight,
    )


def camera(wire: results_pb2.CameraInfo) -> values.Camera:
    ledger, pace = wire.ledger, wire.pace
    return values.Camera(
        camera_id=wire.camera_id,
        display_name=wire.display_name,
        state=choice(values.CameraState, wire.state),
        last_frame_age=wire.last_frame_age_ms * _MS if wire.HasField("last_frame_age_ms") else None,
        analyzed_fps=wire.analyzed_fps,
        wanted_fps=wire.wanted_fps,
        pace=values.Pace(pace.max_fps or None, pace.max_width_px, pace.max_height_px)
        if wire.HasField("pace")
        else None,
        ledger=values.ServerLedger(ledger.received, _answered(ledger.answered), ledger.queued),
        ingest_ledger=_ingest_ledger(wire.ingest_ledger) if wire.HasField("ingest_ledger") else None,
        detail=wire.detail,
        counts=_camera_counts(wire.counts) if wire.HasField("counts") else None,
        incidents=tuple(map(incident, wire.incidents)),
        replica=wire.replica or None,
    )


# --- counts over a time -------------------------------------------------------


def _bucket(wire: results_pb2.CountBucket) -> values.CountBucket:
    return values.CountBucket(
        start=instant(wire.start_unix_s * 1_000_000),
        covered=wire.covered_seconds * _S,
        visits=face_counts(wire.visits) if wire.HasField("visits") else None,
        crossings=tuple(_crossing(crossing, is_live=False) for crossing in wire.crossings),
        withheld=wire.withheld,
        uncertain=wire.uncertain,
    )


def series(wire: results_pb2.CountSeries) -> values.CountSeries:
    return values.CountSeries(
        camera_id=wire.camera_id or None,
        cameras=wire.cameras,
        buckets=tuple(map(_bucket, wire.buckets)),
    )


# --- resources ----------------------------------------------------------------


def resources(wire: admin_pb2.GetResourcesResponse) -> values.Resources:
    allocator, trend, pressure = wire.allocator, wire.trend, wire.pressure
    return values.Resources(
        software=wire.software,
        uptime=wire.uptime_s * _S,
        rss_bytes=_some(wire.HasField("rss_bytes"), wire.rss_bytes),
        rss_peak_bytes=_some(wire.HasField("rss_peak_bytes"), wire.rss_peak_bytes),
        swap_bytes=_some(wire.HasField("swap_bytes"), wire.swap_bytes),
        open_files=_some(wire.HasField("open_files"), wire.open_files),
        threads=_some(wire.HasField("threads"), wire.threads),
        children=_some(wire.HasField("children"), wire.children),
        restarts=_some(wire.HasField("restarts"), wire.restarts),
        budget_bytes=wire.budget_bytes,
        budget=tuple(values.BudgetPart(part.name, part.formula, part.bound_bytes) for part in wire.budget),
        places=tuple(values.BoundedPlace(place.name, place.live, place.cap) for place in wire.places),
        ledger_balance=wire.ledger_balance,
        cgroup_limit_bytes=_some(wire.HasField("cgroup_limit_bytes"), wire.cgroup_limit_bytes),
        cgroup_used_bytes=_some(wire.HasField("cgroup_used_bytes"), wire.cgroup_used_bytes),
        allocator_held_bytes=_some(allocator.HasField("held_bytes"), allocator.held_bytes),
        allocator_in_use_bytes=_some(wire.HasField("allocator"), allocator.in_use_bytes),
        allocator_mapped_bytes=_some(allocator.HasField("mapped_bytes"), allocator.mapped_bytes),
        memory=tuple(values.MemorySample(sample.uptime_s * _S, sample.rss_bytes) for sample in trend.samples),
        slope_bytes_per_hour=trend.slope_bytes_per_hour if trend.HasField("slope_bytes_per_hour") else None,
        slope_ci_bytes_per_hour=trend.slope_ci_bytes_per_hour if trend.HasField("slope_ci_bytes_per_hour") else None,
        memory_short_for=pressure.lasts_ms * _MS if pressure.HasField("lasts_ms") else None,
        memory_shortages=pressure.times,
        soft_limit_bytes=_some(wire.HasField("pressure"), pressure.soft_limit_bytes),
        stages=tuple(
            values.StageTime(stage.name, stage.frames, stage.p50_us * _US, stage.p99_us * _US) for stage in wire.stages
        ),
    )
