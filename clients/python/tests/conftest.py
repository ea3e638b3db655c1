"""One house for all tests that change nothing; others start their own."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from servers import House, missing, until

from flatframe import Client

# More than the longest wait of servers.py, and the end of both services.
LIMIT_S = 100


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test waits for ever, whatever does not come."""

    def late(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"the test took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def services() -> None:
    """Skips, visibly, where there are no services to test against; fails where
    they are required."""
    reason = missing()
    if reason and os.environ.get("FLATFRAME_REQUIRE_PEERS"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def began() -> datetime:
    """Before the first frame."""
    return datetime.now(timezone.utc)


@pytest.fixture(scope="session")
def house(services: None, began: datetime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two cameras, a line, a history that knows both, and a ring that is soon
    full."""
    settings = {
        "history.file": "history.db",
        "history.min_free_bytes": 0,
        "limits.result_ring": 64,
        "people.lines": [{"camera": "door", "name": "sill", "from": [0.5, 0.0], "to": [0.5, 1.0]}],
    }
    minute = timedelta(minutes=1)
    with House(tmp_path_factory.mktemp("house"), {"door": 10, "hall": 5}, settings) as house:
        with Client(house.address) as client:

            def kept() -> bool:
                series = client.counts(began, datetime.now(timezone.utc) + minute, minute)
                return [each.cameras for each in series] == [2]

            until("history knows both cameras", kept)
        yield house


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    with Client(house.address) as client:
        yield client


@pytest.fixture
def folder(services: None, tmp_path: pathlib.Path) -> pathlib.Path:
    """Where a test that starts its own services has them."""
    return tmp_path
