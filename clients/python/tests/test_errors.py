"""What goes wrong says so: in the server's words, as an exception of its kind."""

from __future__ import annotations

import pathlib
from datetime import datetime, timedelta, timezone
from typing import Callable

import grpc
import pytest
from servers import House, Inference, free_ports, until

from flatframe import (
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    FlatframeError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SnapshotStyle,
    Unavailable,
    Unimplemented,
)

NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)
ASK: list[Callable[[Client], object]] = [
    lambda client: client.latest("nobody"),
    lambda client: client.snapshot("nobody"),
    lambda client: client.reset_occupancy("nobody", "sill"),
    lambda client: client.reset_occupancy("door", "no line"),
    lambda client: list(client.results("nobody", NOW - HOUR, NOW)),
    lambda client: client.counts(NOW - HOUR, NOW, HOUR, "nobody"),
]


@pytest.mark.parametrize("ask", ASK)
def test_what_is_not_there_is_not_found(client: Client, ask: Callable[[Client], object]) -> None:
    with pytest.raises(NotFound, match=r"nobody|no line") as caught:
        ask(client)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.retry_after is None
    assert not caught.value.is_passing


def test_a_wrong_request_names_the_limit(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="bucket"):
        client.counts(NOW - HOUR, NOW, timedelta(days=2))
    with pytest.raises(InvalidArgument, match="span of time"):
        list(client.results("door", NOW, NOW - HOUR))
    # A watch tries again, but not what stays wrong.
    with pytest.raises(InvalidArgument):
        next(client.watch("not an id!"))


NAIVE = datetime(2026, 5, 1, 8, 0)  # noqa: DTZ001


def test_naive_datetimes_are_refused_at_once(client: Client) -> None:
    with pytest.raises(ValueError, match="from_ = 2026-05-01T08:00:00 has no time zone"):
        client.results("door", NAIVE, NOW)
    with pytest.raises(ValueError, match="to = 2026-05-01T08:00:00 has no time zone"):
        client.results("door", NOW, NAIVE)
    with pytest.raises(ValueError, match="has no time zone"):
        client.counts(NAIVE, NOW, HOUR)


def test_arguments_that_cannot_be_meant() -> None:
    for address in ("", "localhost", "http://localhost:50051", ":50051", "localhost:http"):
        with pytest.raises(ValueError, match="use HOST:PORT"):
            Client(address)
    with pytest.raises(ValueError, match="timeout_s"):
        Client("localhost:50051", timeout_s=0)
    with Client("localhost:50051") as client:
        for bucket in (timedelta(0), timedelta(milliseconds=1500), -HOUR):
            with pytest.raises(ValueError, match="whole seconds"):
                client.counts(NOW - HOUR, NOW, bucket)
    with pytest.raises(ValueError, match="closed"):
        client.cameras()
    with pytest.raises(ValueError, match="closed"):
        client.watch()


def test_no_history_is_clear(folder: pathlib.Path) -> None:
    server = Inference(folder, {})
    try:
        server.start()
        with Client(server.address) as client:
            with pytest.raises(FailedPrecondition, match=r"history\.file"):
                list(client.results("door", NOW - HOUR, NOW))
            with pytest.raises(FailedPrecondition, match=r"history\.file"):
                client.counts(NOW - HOUR, NOW, HOUR)
    finally:
        server.end()


def test_nobody_there() -> None:
    (port,) = free_ports(1)
    with Client(f"127.0.0.1:{port}") as client:
        with pytest.raises(Unavailable, match="refused"):
            client.cameras()
        with pytest.raises(Unavailable, match="refused"):
            list(client.results("door", NOW - HOUR, NOW))


def test_a_server_that_hangs_is_late(folder: pathlib.Path) -> None:
    server = Inference(folder, {})
    try:
        server.start()
        with Client(server.address, timeout_s=0.5) as client:

            def answers() -> bool:
                try:
                    client.cameras()
                except DeadlineExceeded:
                    return False
                return True

            until("the connection stands", answers)
            server.freeze()
            with pytest.raises(DeadlineExceeded):
                client.cameras()
            with pytest.raises(DeadlineExceeded):
                client.incidents()
    finally:
        server.end()


def test_resources_of_either_service(house: House, client: Client) -> None:
    resources = client.resources()
    assert resources.software
    assert resources.rss_bytes is not None
    assert 0 < resources.rss_bytes < resources.budget_bytes
    assert resources.budget_bytes == sum(part.bound_bytes for part in resources.budget)
    assert all(place.live <= place.cap for place in resources.places)
    assert "subscribers" in [place.name for place in resources.places]
    assert resources.ledger_balance == 0
    assert resources.restarts is None
    with Client(house.ingest.admin_address) as ingest:
        assert "door/in_flight" in [place.name for place in ingest.resources().places]
        with pytest.raises(Unimplemented):
            ingest.cameras()


def test_what_is_withheld_is_none(folder: pathlib.Path) -> None:
    with House(folder, {"door": 10}, {"privacy.mode": "counts_only"}) as house, Client(house.address) as client:
        latest = client.latest("door")
        assert latest.camera.counts is None
        assert latest.result is not None
        assert latest.result.faces is None
        assert latest.result.counts is None
        with pytest.raises(PermissionDenied, match=r"privacy\.mode"):
            client.snapshot("door")
        with pytest.raises(PermissionDenied, match=r"privacy\.mode"):
            next(client.watch_snapshots())


def test_blurred_gives_what_is_allowed(folder: pathlib.Path) -> None:
    with House(folder, {"door": 10}, {"privacy.mode": "blurred"}) as house, Client(house.address) as client:
        assert client.snapshot("door").style is SnapshotStyle.BLURRED
        with pytest.raises(PermissionDenied, match="BLURRED"):
            client.snapshot("door", SnapshotStyle.PLAIN)


def test_one_base_class() -> None:
    error = FlatframeError(grpc.StatusCode.INTERNAL, "why", timedelta(seconds=1.5))
    assert str(error) == "INTERNAL: why (try again in 1.5 s)"
    assert issubclass(NotFound, FlatframeError)
