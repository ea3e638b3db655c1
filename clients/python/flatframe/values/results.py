"""What was found in pictures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .choices import CameraState, Gender, SnapshotStyle
from .counts import CameraCounts


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright picture; it may reach over the border."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float


@dataclass(frozen=True)
class Point:
    """A point in pixels of the upright picture."""

    x_px: float
    y_px: float


@dataclass(frozen=True)
class Track:
    """The same face followed through frames of one camera."""

    track_id: int
    is_visit: bool
    """Seen often enough to be counted."""
    gender: Gender | None
    """Over the whole track."""
    female_probability: float | None
    age: timedelta
    """Since the track began."""


@dataclass(frozen=True)
class Face:
    """One face in one frame."""

    box: Box
    score: float
    """Of the detector, 0 to 1."""
    landmarks: tuple[Point, ...] | None
    """Left and right eye, nose, left and right mouth corner as seen; None when
    the detector gives none."""
    gender: Gender | None
    female_probability: float | None
    track: Track | None
    """None for `detect`, and when the camera's tracks are at their limit."""


@dataclass(frozen=True)
class Position:
    """Place of a result in the server's sequence, to resume a watch after it.
    Numbers compare only within one run of the server."""

    server_epoch: int
    number: int


@dataclass(frozen=True)
class FrameResult:
    """What was found in one frame."""

    position: Position
    camera_id: str
    session_id: int
    frame_number: int
    """Number within the session of the camera's sender."""
    observed: datetime
    """Capture by the server's clock; what history goes by."""
    captured: datetime | None
    """Capture by the camera's clock; None when that is not set."""
    latency: timedelta
    """From capture to publication."""
    width_px: int
    height_px: int
    faces: tuple[Face, ...] | None
    """Best score first; None when withheld (privacy mode counts_only)."""
    truncated: bool
    """More faces were found than may be reported."""
    detector: str
    gender_model: str | None
    """None when gender is switched off."""
    counts: CameraCounts | None
    """So far, this frame included; None when withheld, or late."""
    late: bool
    """The frame was kept while no server took it and was analysed later: in the
    history alone, without position, tracks and counts; observed is captured."""
    replica: str | None
    """The replica that analysed it; None: the one that answers."""


@dataclass(frozen=True)
class Gap:
    """Results were missed here."""

    missed: int | None
    """How many; None when nobody knows: the server was started anew, or the
    connection broke before the first result. A gap that is told right before
    another loss of the connection is told again."""
    last_missed: int | None
    """Number of the last position missed; None as `missed`."""


@dataclass(frozen=True)
class Elsewhere:
    """Whether results of cameras of other replicas come from here on. Without a
    result bus there are no others, and nothing is said."""

    is_heard: bool
    detail: str
    """Why not, for a person; empty when they do."""


@dataclass(frozen=True)
class DetectedFaces:
    """The faces in one picture."""

    width_px: int
    height_px: int
    faces: tuple[Face, ...]
    truncated: bool
    detector: str
    gender_model: str | None
    queued: timedelta
    """Waiting for a worker."""
    analysis: timedelta


@dataclass(frozen=True)
class Snapshot:
    """One picture of one camera."""

    camera_id: str
    jpeg: bytes
    style: SnapshotStyle | None
    age: timedelta
    """Since capture."""
    state: CameraState | None
    """Whether the camera is seen to be live."""
    result: FrameResult | None
    """What was found in it; boxes refer to its width, not to this picture's."""
