"""Cameras, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from .choices import CameraState, DropReason, IncidentKind, Outcome
from .counts import CameraCounts
from .results import FrameResult


@dataclass(frozen=True)
class Incident:
    """A state that a person should know of."""

    incident_id: int
    camera_id: str | None
    """None when it is the server as a whole."""
    kind: IncidentKind | None
    detail: str
    started: datetime
    ended: datetime | None
    """None while it lasts; of another replica, as last told."""
    replica: str | None
    """The replica that saw it and has its pictures; None: the one that
    answered."""


@dataclass(frozen=True)
class IncidentGap:
    """Changes of incidents were missed: forget what you knew, and ask
    `incidents()` anew."""

    missed: int | None
    """How many; None after a lost connection, when nobody knows."""


@dataclass(frozen=True)
class Pace:
    """What the server asks of a camera."""

    max_fps: float | None
    """None: the camera's own rate."""
    max_width_px: int
    max_height_px: int


@dataclass(frozen=True)
class ServerLedger:
    """The server's counters of a camera's frames: received = answered + queued.
    The key None is an outcome that this client does not know."""

    received: int
    answered: Mapping[Outcome | None, int]
    queued: int


@dataclass(frozen=True)
class IngestLedger:
    """The sender's counters: captured = dropped + sent + waiting, sent =
    answered + lost + in_flight."""

    captured: int
    dropped: Mapping[DropReason | None, int]
    sent: int
    answered: Mapping[Outcome | None, int]
    lost: int
    waiting: int
    in_flight: int


@dataclass(frozen=True)
class Camera:
    """What the server knows of one camera."""

    camera_id: str
    display_name: str
    state: CameraState | None
    last_frame_age: timedelta | None
    """None when no frame arrived."""
    analyzed_fps: float
    wanted_fps: float
    pace: Pace | None
    ledger: ServerLedger
    ingest_ledger: IngestLedger | None
    """None before the sender's first report."""
    detail: str
    """What is wrong; empty when live."""
    counts: CameraCounts | None
    """None when withheld."""
    incidents: tuple[Incident, ...]
    """Open now."""
    replica: str | None
    """The replica that serves it; None: the one that answers."""


@dataclass(frozen=True)
class Latest:
    """The newest result of one camera and how old it is."""

    camera: Camera
    result: FrameResult | None
    """None when no frame was analysed yet."""
    age: timedelta | None
    """Since capture of that frame; None with it."""
