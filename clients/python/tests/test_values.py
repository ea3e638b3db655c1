"""Conversion and pauses, without a server."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest

from flatframe import client, convert, errors, status_pb2, stream, values
from flatframe.v1 import frames_pb2, results_pb2

CHOICES = [
    (values.Gender, results_pb2.Gender),
    (values.IncidentKind, results_pb2.IncidentKind),
    (values.CrossingKind, results_pb2.CrossingKind),
    (values.SnapshotStyle, results_pb2.SnapshotStyle),
    (values.IncidentMoment, results_pb2.IncidentMoment),
    (values.CameraState, frames_pb2.CameraState),
    (values.Outcome, frames_pb2.Outcome),
    (values.DropReason, frames_pb2.DropReason),
]


@pytest.mark.parametrize(("ours", "wire"), CHOICES, ids=lambda choice: "")
def test_choices_are_those_of_the_protocol(ours: type[values.Choice], wire: object) -> None:
    names = {number: name for name, number in wire.items() if number}  # type: ignore[attr-defined]
    assert {choice.value: choice.name for choice in ours} == {
        number: name[len(names[1]) - len(ours(1).name) :] for number, name in names.items()
    }


def test_unknown_is_none_never_zero() -> None:
    face = convert.face(results_pb2.Face())
    assert (face.gender, face.female_probability, face.track, face.landmarks) == (None, None, None, None)
    result = convert.result(results_pb2.FrameResult(faces_withheld=True))
    assert (result.captured, result.faces, result.counts, result.gender_model) == (None, None, None, None)
    assert convert.result(results_pb2.FrameResult(captured_unix_us=2**63 - 1)).captured is None
    latest = convert.latest(results_pb2.GetLatestResponse())
    assert (latest.result, latest.age, latest.camera.state, latest.camera.last_frame_age) == (None, None, None, None)
    counts = convert.series(results_pb2.CountSeries(buckets=[results_pb2.CountBucket()]))
    assert (counts.camera_id, counts.buckets[0].visits) == (None, None)
    bucket = results_pb2.CountBucket(crossings=[results_pb2.CrossingCounts(name="sill")])
    assert convert.series(results_pb2.CountSeries(buckets=[bucket])).buckets[0].crossings[0].occupancy is None
    assert convert.incident(results_pb2.Incident()).camera_id is None
    assert convert.incident(results_pb2.Incident()).replica is None
    assert convert.incident(results_pb2.Incident(replica="north")).replica == "north"


def test_several_replicas() -> None:
    result = convert.result(results_pb2.FrameResult(replica="b", counts=results_pb2.CameraCounts(uncertain=True)))
    assert (result.replica, result.counts and result.counts.uncertain) == ("b", True)
    assert convert.camera(results_pb2.CameraInfo()).replica is None
    assert convert.camera(results_pb2.CameraInfo(replica="b")).replica == "b"
    series = convert.series(results_pb2.CountSeries(buckets=[results_pb2.CountBucket(uncertain=True)]))
    assert series.buckets[0].uncertain
    complete, short = values.Answer([1, 2], ""), values.Answer([1, 2], "the result bus is away")
    assert complete == short == [1, 2]
    assert (complete.incomplete, short.incomplete) == (None, "the result bus is away")
    told = results_pb2.WatchResponse(elsewhere=results_pb2.Elsewhere(is_heard=False, detail="away"))
    assert list(client._watched(iter([told]), results_pb2.WatchRequest())) == [values.Elsewhere(False, "away")]


def test_what_a_newer_server_says_is_not_lost() -> None:
    answered = [frames_pb2.OutcomeCount(outcome=frames_pb2.Outcome.ValueType(99), frames=3)]
    camera = convert.camera(results_pb2.CameraInfo(ledger=results_pb2.ServerLedger(answered=answered)))
    assert camera.ledger.answered == {None: 3}


def test_details_that_cannot_be_read_say_nothing() -> None:
    info = status_pb2.RetryInfo()
    info.retry_delay.FromTimedelta(timedelta(milliseconds=1500))
    status = status_pb2.Status()
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=info.SerializeToString())
    assert errors._retry_after(status.SerializeToString()) == timedelta(milliseconds=1500)
    assert errors._retry_after(status.SerializeToString()[:-1]) is None
    info.retry_delay.seconds = 2**62
    status.details[0].value = info.SerializeToString()
    assert errors._retry_after(status.SerializeToString()) is None


def test_pauses_grow_and_are_bounded() -> None:
    error = errors.Unavailable(grpc.StatusCode.UNAVAILABLE, "away")
    backoff = stream.Backoff(patience_s=None)
    pauses = [backoff.pause_s(error) for _ in range(100)]
    assert 0.05 <= pauses[0] <= 0.1
    assert all(1.25 <= pause <= 2.5 for pause in pauses[5:])
    assert len(set(pauses)) > 90, "no two clients keep step"
    backoff.reset()
    assert backoff.pause_s(error) <= 0.1
    busy = errors.ResourceExhausted(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", timedelta(seconds=5))
    assert 5 <= backoff.pause_s(busy) <= 6
    too_large = errors.ResourceExhausted(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")
    with pytest.raises(errors.ResourceExhausted):
        backoff.pause_s(too_large)
    with pytest.raises(errors.Unavailable):
        stream.Backoff(patience_s=0.0).pause_s(error)
