"""What the client gives: plain values. What is not known is None, never 0 or
empty; instants are datetimes in UTC; lengths of time are timedeltas. Nothing
here knows of gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeVar, Union

T = TypeVar("T")

# --- choices: the numbers are those of the protocol -------------------------


class Choice(Enum):
    """One of a few; as text its name in lower case."""

    def __str__(self) -> str:
        return self.name.lower()


class Gender(Choice):
    """Apparent gender, an estimate; None where it was not estimated."""

    UNKNOWN = 1
    """Estimated, but not clear."""
    FEMALE = 2
    MALE = 3


class CameraState(Choice):
    """State of a camera's source."""

    CONNECTING = 1
    LIVE = 2
    STALLED = 3
    DOWN = 4
    OFFLINE = 5


class Outcome(Choice):
    """What became of a frame that was sent."""

    ANALYZED = 1
    EXPIRED = 2
    SHED = 3
    INVALID = 4
    FAILED = 5
    DRAINING = 6


class DropReason(Choice):
    """Why a frame was never sent."""

    SUPERSEDED = 1
    PACED = 2
    STILL = 3
    EXPIRED = 4
    CORRUPT = 5
    TOO_LARGE = 6
    OFFLINE = 7
    SHUTDOWN = 8


class IncidentKind(Choice):
    """What an incident is."""

    OFFLINE = 1
    STALLED = 2
    FROZEN = 3
    DARK = 4
    OVERLOADED = 5
    DISK = 6
    MEMORY = 7


class CrossingKind(Choice):
    """What people cross."""

    LINE = 1
    ZONE = 2


class SnapshotStyle(Choice):
    """How a snapshot looks."""

    ANNOTATED = 1
    """Boxes around the faces, coloured by apparent gender."""
    BLURRED = 2
    """Faces made unrecognisable."""
    PLAIN = 3
    """As the camera gave it."""


class IncidentMoment(Choice):
    """Moments of an incident."""

    START = 1
    """When it opened."""
    END = 2
    """When it was over: the first picture after it."""


class Answer(list[T]):
    """A list that says what it may lack."""

    def __init__(self, items: Iterable[T], incomplete: str) -> None:
        super().__init__(items)
        self.incomplete: str | None = incomplete or None
        """Why others may be missing, for a person, such as a replica that is not
        heard; None when none are."""


# --- results ----------------------------------------------------------------


@dataclass(frozen=True)
class FaceCounts:
    """People or faces by apparent gender; `faces` is the sum."""

    faces: int
    female: int
    male: int
    unknown: int


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
class CrossingCounts:
    """People counted at one line or zone."""

    name: str
    kind: CrossingKind | None
    entered: FaceCounts
    left: FaceCounts
    occupancy: int | None
    """Line: entered less left since it was set, may be negative. Zone: visits
    inside now. None in buckets of time."""


@dataclass(frozen=True)
class CameraCounts:
    """People counted by one camera since the server knows it."""

    now: FaceCounts | None
    """In the picture now; None while nobody watches, so that it is not known."""
    visits: FaceCounts
    crossings: tuple[CrossingCounts, ...]
    truncated: bool
    """More faces than tracks are kept: counts are too low."""
    uncertain: bool
    """The camera came from another replica that could not hand it over: a visit
    may be in here twice, or missing."""


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
class Latest:
    """The newest result of one camera and how old it is."""

    camera: Camera
    result: FrameResult | None
    """None when no frame was analysed yet."""
    age: timedelta | None
    """Since capture of that frame; None with it."""


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


# --- cameras and incidents --------------------------------------------------


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


# --- counts over a time -----------------------------------------------------


@dataclass(frozen=True)
class CountBucket:
    """People counted in one bucket of time."""

    start: datetime
    covered: timedelta
    """Time watched, all cameras together: less than cameras times the bucket's
    length means that people may be missing."""
    visits: FaceCounts | None
    """None when nothing was watched, or when withheld."""
    crossings: tuple[CrossingCounts, ...]
    withheld: bool
    """So few that they might point at a person (privacy mode counts_only)."""
    uncertain: bool
    """A camera came from another replica that could not hand it over: a visit may
    be in here twice, or missing."""


@dataclass(frozen=True)
class CountSeries:
    """Counts of one camera, or of several together."""

    camera_id: str | None
    """None when several are summed."""
    cameras: int
    buckets: tuple[CountBucket, ...]
    """Oldest first, without holes."""


# --- resources --------------------------------------------------------------


@dataclass(frozen=True)
class BudgetPart:
    """One part of the memory budget."""

    name: str
    formula: str
    bound_bytes: int


@dataclass(frozen=True)
class BoundedPlace:
    """A place where data can wait, in items."""

    name: str
    live: int
    cap: int


@dataclass(frozen=True)
class StageTime:
    """Time of one frame in a stage, over all frames since start."""

    name: str
    frames: int
    p50: timedelta
    p99: timedelta


@dataclass(frozen=True)
class MemorySample:
    """Resident memory at one instant."""

    uptime: timedelta
    rss_bytes: int


@dataclass(frozen=True)
class Resources:
    """What a service uses, and may use."""

    software: str
    uptime: timedelta
    rss_bytes: int | None
    rss_peak_bytes: int | None
    swap_bytes: int | None
    open_files: int | None
    threads: int | None
    children: int | None
    restarts: int | None
    budget_bytes: int
    budget: tuple[BudgetPart, ...]
    places: tuple[BoundedPlace, ...]
    ledger_balance: int
    """0 unless there is a defect."""
    cgroup_limit_bytes: int | None
    cgroup_used_bytes: int | None
    allocator_held_bytes: int | None
    allocator_in_use_bytes: int | None
    allocator_mapped_bytes: int | None
    memory: tuple[MemorySample, ...]
    """Over the life of the process, oldest first."""
    slope_bytes_per_hour: float | None
    slope_ci_bytes_per_hour: float | None
    memory_short_for: timedelta | None
    """None when memory is not short."""
    memory_shortages: int
    soft_limit_bytes: int | None
    stages: tuple[StageTime, ...]


WatchEvent = Union[FrameResult, Gap, Elsewhere]
IncidentEvent = Union[Incident, IncidentGap, Elsewhere]
