"""Pictures out, pictures in."""

from __future__ import annotations

import pytest
from servers import until

from flatframe import CameraState, Client, InvalidArgument, SnapshotStyle


def width_px(jpeg: bytes) -> int:
    """Width of a JPEG, from its frame header."""
    assert jpeg[:2] == b"\xff\xd8", "begins with SOI"
    assert jpeg[-2:] == b"\xff\xd9", "ends with EOI"
    at = 2
    while jpeg[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return int.from_bytes(jpeg[at + 7 : at + 9], "big")


@pytest.mark.parametrize("style", [None, *SnapshotStyle])
def test_a_snapshot(client: Client, style: SnapshotStyle | None) -> None:
    snapshot = client.snapshot("door", style)
    assert snapshot.camera_id == "door"
    assert snapshot.style is (style or SnapshotStyle.ANNOTATED)
    assert width_px(snapshot.jpeg) == 320
    assert snapshot.age.total_seconds() < 10
    assert snapshot.state in (CameraState.CONNECTING, CameraState.LIVE)
    assert snapshot.result is not None
    assert snapshot.result.width_px == 320


def test_a_small_snapshot(client: Client) -> None:
    assert width_px(client.snapshot("door", max_width_px=100).jpeg) <= 100
    with pytest.raises(InvalidArgument, match="at least 32"):
        client.snapshot("door", max_width_px=5)


def test_snapshots_as_they_come(client: Client) -> None:
    def viewers() -> int:
        (place,) = [place for place in client.resources().places if place.name == "viewers"]
        return place.live

    with client.watch_snapshots("door", SnapshotStyle.PLAIN, max_width_px=64, max_fps=10) as snapshots:
        shown = [next(snapshots) for _ in range(3)]
        assert viewers() == 1
    until("the viewer is gone", lambda: viewers() == 0)
    assert {snapshot.camera_id for snapshot in shown} == {"door"}
    assert all(width_px(snapshot.jpeg) <= 64 for snapshot in shown)
    numbers = [snapshot.result.frame_number for snapshot in shown if snapshot.result]
    assert numbers == sorted(set(numbers)), "each is newer"


def test_detect(client: Client) -> None:
    def faces() -> bool:
        found = client.detect(client.snapshot("door", SnapshotStyle.PLAIN).jpeg)
        assert (found.width_px, found.height_px) == (320, 240)
        assert all(face.track is None for face in found.faces)
        return bool(found.faces)

    until("a picture with a face", faces)
    with pytest.raises(InvalidArgument):
        client.detect(b"no picture")
