"""What is now: cameras, the newest result, and watches that go on."""

from __future__ import annotations

import logging
import pathlib
import signal
import threading
from datetime import datetime, timedelta, timezone

import pytest
from relay import Relay
from servers import PATIENCE_S, House, Inference, free_ports, until

from flatframe import (
    CameraState,
    Client,
    CrossingKind,
    FrameResult,
    Gap,
    Gender,
    IncidentGap,
    Latest,
    Outcome,
    Position,
    ResourceExhausted,
    Stream,
    Unavailable,
    WatchEvent,
)


def next_result(events: Stream[WatchEvent]) -> FrameResult:
    event = next(events)
    assert isinstance(event, FrameResult), event
    return event


def watching(client: Client, name: str = "subscribers") -> int:
    """Watches that the server holds."""
    (place,) = [place for place in client.resources().places if place.name == name]
    return place.live


def test_cameras_and_their_newest_results(client: Client, began: datetime) -> None:
    def live() -> bool:
        return all(camera.state is CameraState.LIVE for camera in client.cameras())

    until("both cameras are live", live)
    door, hall = client.cameras()
    assert (door.camera_id, hall.camera_id) == ("door", "hall")
    assert door.wanted_fps == 10
    assert door.pace is not None
    assert door.incidents == ()
    assert door.ledger.answered[Outcome.ANALYZED] > 0

    def counted() -> Latest | None:
        latest = client.latest("door")
        result = latest.result
        is_seen = result and result.faces and result.counts and result.counts.visits.faces
        return latest if is_seen else None

    latest = until("the face of the card is a visit", counted)
    assert latest.camera.camera_id == "door"
    assert latest.age is not None
    assert timedelta(0) <= latest.age < timedelta(seconds=10)
    result = latest.result
    assert result is not None
    assert began < result.observed < datetime.now(timezone.utc)
    assert result.captured is not None
    assert result.captured.tzinfo is timezone.utc
    assert (result.width_px, result.height_px) == (320, 240)
    assert result.gender_model is not None
    assert result.faces
    face = result.faces[0]
    assert face.score > 0.5
    assert face.gender in list(Gender)
    assert face.female_probability is not None
    assert 0 <= face.female_probability <= 1
    assert result.counts is not None
    assert result.counts.now is not None
    (sill,) = result.counts.crossings
    assert (sill.name, sill.kind) == ("sill", CrossingKind.LINE)


def test_occupancy_is_set(client: Client) -> None:
    client.reset_occupancy("door", "sill", 7)
    counts = client.latest("door").camera.counts
    assert counts is not None
    # The card's face may have crossed meanwhile.
    assert counts.crossings[0].occupancy in range(4, 11)
    client.reset_occupancy("door", "sill")


def test_a_watch_gives_all_cameras_or_some(client: Client) -> None:
    with client.watch() as events:
        seen: set[str] = set()
        while seen != {"door", "hall"}:
            seen.add(next_result(events).camera_id)
    with client.watch("hall") as events:
        results = [next_result(events) for _ in range(5)]
    assert {result.camera_id for result in results} == {"hall"}
    numbers = [result.position.number for result in results]
    assert numbers == sorted(set(numbers))


def test_a_watch_goes_on_after_a_position(client: Client) -> None:
    with client.watch() as events:
        last = next_result(events).position
    with client.watch(after=last) as events:
        for _ in range(5):
            result = next_result(events)
            assert result.position == Position(last.server_epoch, last.number + 1)
            last = result.position


def test_what_is_no_longer_held_is_a_gap(client: Client) -> None:
    with client.watch() as events:
        first = next_result(events).position
        # The ring holds 64.
        while next_result(events).position.number < first.number + 70:
            pass
    with client.watch(after=first) as events:
        gap = next(events)
        assert isinstance(gap, Gap)
        assert gap.missed is not None
        assert gap.last_missed == first.number + gap.missed
        assert next_result(events).position.number == gap.last_missed + 1


def test_a_position_of_another_run_is_a_gap_of_unknown_size(client: Client) -> None:
    with client.watch() as events:
        now = next_result(events).position
    with client.watch(after=Position(now.server_epoch ^ 1, now.number)) as events:
        gaps: list[Gap] = []
        while isinstance(event := next(events), Gap):
            gaps.append(event)
    assert gaps[-1] == Gap(missed=None, last_missed=None)
    assert isinstance(event, FrameResult)
    assert event.position.number <= now.number + 1


def test_whoever_leaves_closes_the_stream(house: House, client: Client) -> None:
    until("nobody watches", lambda: watching(client) == 0)
    for event in client.watch():
        assert isinstance(event, FrameResult)
        assert watching(client) == 1
        break
    until("the loop that was left closed its watch", lambda: watching(client) == 0)

    events = client.watch()
    next(events)
    ended = threading.Thread(target=lambda: list(events))
    ended.start()
    events.close()
    ended.join(PATIENCE_S)
    assert not ended.is_alive(), "close() from another thread ends the loop"
    until("close() closed its watch", lambda: watching(client) == 0)

    with Client(house.address) as other:
        events = other.watch()
        next(events)
        until("the other client watches", lambda: watching(client) == 1)
    assert list(events) == []
    until("closing the client closed its watch", lambda: watching(client) == 0)


def test_a_lost_connection_loses_nothing_silently(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="flatframe")
    with Relay(house.address) as relay, Client(relay.address) as client, client.watch() as events:
        last = next_result(events).position
        for cut in range(1, 4):
            relay.cut()
            # What came before may still be read.
            while len(caplog.records) < 2 * cut:
                event = next(events)
                if isinstance(event, Gap):
                    assert event.missed is not None
                    assert event.last_missed == last.number + event.missed
                    last = Position(last.server_epoch, event.last_missed)
                else:
                    assert isinstance(event, FrameResult)
                    assert event.position == Position(last.server_epoch, last.number + 1)
                    last = event.position
    said = [record.getMessage() for record in caplog.records]
    assert [message.partition(",")[0] for message in said] == ["no connection", "connected again"] * 3


def test_a_dead_wire_is_noticed(house: House) -> None:
    # In some seconds rather than in the usual ten.
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    options = [(name, 3000) for name in names]
    with (
        Relay(house.address) as relay,
        Client(relay.address, options=options) as client,
        client.watch(patience_s=0) as events,
    ):
        next(events)
        relay.hold()
        with pytest.raises(Unavailable):
            list(events)


def test_a_watch_survives_a_restart_of_the_server(folder: pathlib.Path) -> None:
    with (
        House(folder, {"door": 10}) as house,
        Client(house.address) as client,
        client.watch() as events,
        client.watch_incidents() as incidents,
    ):
        before = next_result(events)
        until("the incidents are watched", lambda: watching(client, "incident_watches") == 1)
        house.server.end(signal.SIGKILL)
        house.server.start()
        while isinstance(event := next(events), FrameResult) and event.position.server_epoch == (
            before.position.server_epoch
        ):
            pass
        assert event == Gap(missed=None, last_missed=None)
        after = next_result(events)
        assert after.position.server_epoch != before.position.server_epoch
        assert after.camera_id == "door"
        # There was no incident; only that one may have been missed.
        assert next(incidents) == IncidentGap(missed=None)


def test_a_watch_waits_for_a_server(folder: pathlib.Path) -> None:
    server = Inference(folder, {})
    try:
        with Client(server.address) as client, Client(server.address) as observer:
            events = client.watch()
            outcome: list[object] = []
            waiting = threading.Thread(target=lambda: outcome.extend(events))
            waiting.start()
            server.start()
            # One whose connection was not refused, and so is not in a pause.
            until("the watch has come through", lambda: watching(observer) == 1)
            events.close()
            waiting.join(PATIENCE_S)
            assert not waiting.is_alive()
            assert outcome == [], "nothing was missed: nothing was there"
    finally:
        server.end()


def test_patience_has_an_end() -> None:
    (port,) = free_ports(1)
    with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(Unavailable, match="refused"):
            next(client.watch(patience_s=0.5))
        # Leaving ends the pause between attempts, too.
        events = client.watch()
        waiting = threading.Thread(target=lambda: list(events))
        waiting.start()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()


def test_a_full_server_says_when_to_come_back(folder: pathlib.Path) -> None:
    server = Inference(folder, {"limits.max_subscribers": 0})
    try:
        server.start()
        with Client(server.address) as client:
            with pytest.raises(ResourceExhausted, match=r"max_subscribers.*try again in 5 s") as caught:
                next(client.watch(patience_s=1))
            assert caught.value.retry_after == timedelta(seconds=5)
            assert caught.value.is_passing
    finally:
        server.end()
