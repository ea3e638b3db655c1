#!/usr/bin/env python3
"""Saves the newest picture of a camera, and tells what was found in it."""

from __future__ import annotations

import argparse
import sys

from flatframe import Client, Face, FlatframeError, SnapshotStyle


def describe(face: Face) -> str:
    box = face.box
    gender = face.track.gender if face.track else face.gender
    return (
        f"  face at {box.x_px:.0f},{box.y_px:.0f}, {box.width_px:.0f} pixels wide, gender: {gender or 'not estimated'}"
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("camera", help="id of the camera")
    arguments.add_argument("out", help="where to save the JPEG")
    arguments.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    arguments.add_argument("--style", choices=[str(style) for style in SnapshotStyle], help="default: what is allowed")
    arguments.add_argument("--width", type=int, metavar="PIXELS", help="most pixels across; default: as it came")
    given = arguments.parse_args()
    style = SnapshotStyle[given.style.upper()] if given.style else None
    try:
        with Client(given.server) as client:
            snapshot = client.snapshot(given.camera, style, given.width)
        with open(given.out, "wb") as file:
            file.write(snapshot.jpeg)
    except (FlatframeError, ValueError, OSError) as error:
        print(f"one_picture: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    age_s = snapshot.age.total_seconds()
    print(f"{given.out}: {snapshot.style}, {age_s:.1f} s old, camera {snapshot.state or 'in an unknown state'}")
    for face in (snapshot.result and snapshot.result.faces) or ():
        print(describe(face))
    return 0


if __name__ == "__main__":
    sys.exit(main())
