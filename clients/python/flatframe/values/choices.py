"""Choices; their numbers are those of the protocol."""

from __future__ import annotations

from enum import Enum


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
