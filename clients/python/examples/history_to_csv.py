#!/usr/bin/env python3
"""Writes the results of one camera over a time to a CSV file, a row for each
analysed frame. What is not known is an empty field."""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TextIO

from flatframe import Client, FlatframeError, FrameResult, Gender

COLUMNS = ["observed", "camera", "frame", "faces", "female", "male", "unclear", "now", "came"]


def row(result: FrameResult) -> list[object]:
    faces: list[object] = ["", "", "", ""]
    if result.faces is not None:
        genders = [face.track.gender if face.track else face.gender for face in result.faces]
        named = [Gender.FEMALE, Gender.MALE]
        unclear = sum(gender not in named for gender in genders)
        faces = [len(genders), *(genders.count(gender) for gender in named), unclear]
    now = result.counts.now.faces if result.counts and result.counts.now else ""
    came = result.counts.visits.faces if result.counts else ""
    return [result.observed.isoformat(), result.camera_id, result.frame_number, *faces, now, came]


def instant(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 2026-05-01T08:00:00+02:00") from None
    if when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone: write {text}+02:00, or {text}Z for UTC")
    return when


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[TextIO]:
    """Standard output for "-"; else a file that is there once it is whole."""
    if path == "-":
        yield sys.stdout
        return
    part = f"{path}.part"
    try:
        with open(part, "w", newline="", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
        raise


def main() -> int:
    now = datetime.now(timezone.utc)
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("camera", help="id of the camera")
    arguments.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    arguments.add_argument("--from", dest="from_", type=instant, default=now - timedelta(hours=1), metavar="TIME")
    arguments.add_argument("--to", type=instant, default=now, metavar="TIME", help="default: now")
    arguments.add_argument("--out", default="-", metavar="FILE", help="default: standard output")
    given = arguments.parse_args()
    rows = 0
    try:
        with Client(given.server) as client, whole_file(given.out) as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for result in client.results(given.camera, given.from_, given.to):
                writer.writerow(row(result))
                rows += 1
            file.flush()
    except BrokenPipeError:
        # Whoever read has enough; nothing is to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (FlatframeError, ValueError, OSError) as error:
        print(f"history_to_csv: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"history_to_csv: interrupted after {rows} rows", file=sys.stderr)
        return 130
    print(f"{rows} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
