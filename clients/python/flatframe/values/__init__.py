"""What the client gives: plain values. What is not known is None, never 0 or
empty; instants are datetimes in UTC; lengths of time are timedeltas. Nothing
here knows of gRPC."""

from typing import Union

from .answer import Answer
from .cameras import Camera, Incident, IncidentGap, IngestLedger, Latest, Pace, ServerLedger
from .choices import (
    CameraState,
    Choice,
    CrossingKind,
    DropReason,
    Gender,
    IncidentKind,
    IncidentMoment,
    Outcome,
    SnapshotStyle,
)
from .counts import CameraCounts, CountBucket, CountSeries, CrossingCounts, FaceCounts
from .resources import BoundedPlace, BudgetPart, MemorySample, Resources, StageTime
from .results import Box, DetectedFaces, Elsewhere, Face, FrameResult, Gap, Point, Position, Snapshot, Track

WatchEvent = Union[FrameResult, Gap, Elsewhere]
IncidentEvent = Union[Incident, IncidentGap, Elsewhere]

__all__ = [
    "Answer",
    "BoundedPlace",
    "Box",
    "BudgetPart",
    "Camera",
    "CameraCounts",
    "CameraState",
    "Choice",
    "CountBucket",
    "CountSeries",
    "CrossingCounts",
    "CrossingKind",
    "DetectedFaces",
    "DropReason",
    "Elsewhere",
    "Face",
    "FaceCounts",
    "FrameResult",
    "Gap",
    "Gender",
    "Incident",
    "IncidentEvent",
    "IncidentGap",
    "IncidentKind",
    "IncidentMoment",
    "IngestLedger",
    "Latest",
    "MemorySample",
    "Outcome",
    "Pace",
    "Point",
    "Position",
    "Resources",
    "ServerLedger",
    "Snapshot",
    "SnapshotStyle",
    "StageTime",
    "Track",
    "WatchEvent",
]
