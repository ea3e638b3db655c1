"""Each example, run as a user would."""

from __future__ import annotations

import csv
import io
import pathlib
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone

import pytest
from servers import House, free_ports, until

from flatframe import Client

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
LINE = r"\d\d:\d\d:\d\d door: \d+ now, \d+ came \(\d+ f, \d+ m, \d+ unclear\)  sill: \d+ in, \d+ out, -?\d+ inside"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_live_counts_until_ctrl_c(house: House) -> None:
    command = [sys.executable, str(EXAMPLES / "live_counts.py"), "--server", house.address, "door"]
    # What a shell starts in the background ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as example:
        try:
            assert example.stdout is not None
            first = example.stdout.readline()
            example.send_signal(signal.SIGINT)
            _, errors = example.communicate(timeout=60)
        finally:
            example.kill()
    assert re.fullmatch(LINE, first.strip()), first
    assert (example.returncode, errors) == (0, "")


def test_history_to_csv(house: House, began: datetime, tmp_path: pathlib.Path) -> None:
    with Client(house.address) as client:

        def kept() -> bool:
            return len(list(client.results("door", began, datetime.now(timezone.utc)))) > 20

        until("history has results", kept)
        to = datetime.now(timezone.utc)
        expected = list(client.results("door", began, to))
    span = ["--from", began.isoformat(), "--to", to.isoformat()]
    out = tmp_path / "door.csv"
    done = run("history_to_csv.py", "door", "--server", house.address, *span, "--out", str(out))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    # What came to the disk meanwhile is later.
    assert len(rows) >= len(expected)
    for row, result in zip(rows, expected):
        assert datetime.fromisoformat(row["observed"]) == result.observed
        assert (row["camera"], row["frame"]) == ("door", str(result.frame_number))
        assert result.faces is not None
        assert row["faces"] == str(len(result.faces))
    assert list(tmp_path.iterdir()) == [out], "no part is left"
    # By default the last hour, to standard output.
    done = run("history_to_csv.py", "door", "--server", house.address)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > len(expected)


def test_one_picture(house: House, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "door.jpg"
    done = run("one_picture.py", "door", str(out), "--server", house.address, "--style", "blurred", "--width", "160")
    assert done.returncode == 0, done.stderr
    assert re.search(r"door\.jpg: blurred, \d+\.\d s old, camera (live|connecting)", done.stdout), done.stdout
    assert out.read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("live_counts.py", ["nobody"]), ("history_to_csv.py", ["nobody"]), ("one_picture.py", ["nobody", "x.jpg"])],
)
def test_errors_are_one_line(house: House, name: str, arguments: list[str]) -> None:
    def one_line(done: subprocess.CompletedProcess[str], pattern: str) -> None:
        assert done.returncode == 1
        assert re.fullmatch(f"{name[:-3]}: {pattern}\n", done.stderr), done.stderr

    one_line(run(name, *arguments, "--server", house.address), "NOT_FOUND: .*nobody.*")
    (port,) = free_ports(1)
    one_line(run(name, *arguments, "--server", f"127.0.0.1:{port}"), "UNAVAILABLE: .*refused.*")
    one_line(run(name, *arguments, "--server", "http://x"), "address = 'http://x': use HOST:PORT")


def test_history_to_csv_refuses_times_without_a_zone() -> None:
    done = run("history_to_csv.py", "door", "--from", "2026-05-01T08:00:00")
    assert done.returncode == 2
    assert "has no time zone: write 2026-05-01T08:00:00+02:00" in done.stderr


def test_a_reader_that_has_enough_ends_the_export(house: House, began: datetime) -> None:
    command = [sys.executable, str(EXAMPLES / "history_to_csv.py"), "door", "--server", house.address]
    far = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    with subprocess.Popen([*command, "--to", far], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as example:
        assert example.stdout is not None
        example.stdout.close()
        assert example.stderr is not None
        errors = example.stderr.read()
        deadline = time.monotonic() + 60
        assert example.wait(max(0.0, deadline - time.monotonic())) == 0, errors
    assert errors == b""
