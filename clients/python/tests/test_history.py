"""What was: results, counts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from servers import until

import flatframe.client
from flatframe import Client, CountSeries, FaceCounts, FrameResult

SECOND = timedelta(seconds=1)


def results(client: Client, camera: str, began: datetime, least: int) -> list[FrameResult]:
    """What history has of `camera` once it has at least so many."""

    def look() -> list[FrameResult]:
        found = list(client.results(camera, began, datetime.now(timezone.utc)))
        return found if len(found) >= least else []

    return until(f"history has {least} results", look)


def test_results_page_by_page(client: Client, began: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(client, "hall", began, least=12)
    assert {result.camera_id for result in found} == {"hall"}
    numbers = [result.frame_number for result in found]
    assert numbers == sorted(set(numbers)), "oldest first, each once"
    to = found[-1].observed + timedelta(milliseconds=1)
    monkeypatch.setattr(flatframe.client, "_PAGE_RESULTS", 5)
    assert list(client.results("hall", began, to)) == found
    # From inclusive, to exclusive, to the millisecond.
    some = list(client.results("hall", found[3].observed, found[6].observed))
    assert [result.frame_number for result in some] == numbers[3:6]


def test_a_span_without_results_is_empty(client: Client, began: datetime) -> None:
    results(client, "hall", began, least=1)
    assert list(client.results("hall", began - timedelta(days=2), began - timedelta(days=1))) == []


def test_results_may_be_left(client: Client, began: datetime) -> None:
    results(client, "hall", began, least=2)
    with client.results("hall", began, datetime.now(timezone.utc)) as stream:
        next(stream)
    assert len(list(stream)) <= 256


def test_counts(client: Client, began: datetime) -> None:
    start = began.replace(microsecond=0)

    def look(per_camera: bool) -> list[CountSeries]:
        now = datetime.now(timezone.utc)
        series = client.counts(start, now + SECOND, 5 * SECOND, per_camera=per_camera)
        visits = [sum(bucket.visits.faces for bucket in each.buckets if bucket.visits is not None) for each in series]
        return series if series and all(visits) else []

    (both,) = until("visits are counted", lambda: look(per_camera=False))
    assert both.camera_id is None
    assert both.cameras == 2
    assert [bucket.start for bucket in both.buckets] == [start + 5 * n * SECOND for n in range(len(both.buckets))]
    assert all(bucket.covered <= 10 * SECOND for bucket in both.buckets)
    each = until("visits are counted for each camera", lambda: look(per_camera=True))
    assert [series.camera_id for series in each] == ["door", "hall"]
    (door,) = client.counts(start, start + 60 * SECOND, 60 * SECOND, "door")
    visits = door.buckets[0].visits
    assert isinstance(visits, FaceCounts)
    assert visits.faces == visits.female + visits.male + visits.unknown


def test_nothing_watched_is_not_zero(client: Client, began: datetime) -> None:
    results(client, "door", began, least=1)
    (series,) = client.counts(began - timedelta(days=1), began - timedelta(hours=23), timedelta(minutes=30), "door")
    assert [(bucket.visits, bucket.covered) for bucket in series.buckets] == [(None, timedelta(0))] * 2


def test_other_time_zones_are_the_same_instant(client: Client, began: datetime) -> None:
    found = results(client, "hall", began, least=3)
    east = timezone(timedelta(hours=5, minutes=45))
    to = found[2].observed
    assert list(client.results("hall", began.astimezone(east), to.astimezone(east))) == found[:2]
