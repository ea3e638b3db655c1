"""Counts of faces and people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .choices import CrossingKind


@dataclass(frozen=True)
class FaceCounts:
    """People or faces by apparent gender; `faces` is the sum."""

    faces: int
    female: int
    male: int
    unknown: int


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
