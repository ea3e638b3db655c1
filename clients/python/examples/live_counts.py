#!/usr/bin/env python3
"""Prints who is there now and how many came, whenever that changes. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import logging
import sys

from flatframe import CameraCounts, Client, Elsewhere, FlatframeError, Gap


def line(camera: str, counts: CameraCounts) -> str:
    # None is "not known", which is not "nobody".
    now = "?" if counts.now is None else str(counts.now.faces)
    came = counts.visits
    crossed = "".join(
        f"  {each.name}: {each.entered.faces} in, {each.left.faces} out, {each.occupancy} inside"
        for each in counts.crossings
    )
    return f"{camera}: {now} now, {came.faces} came ({came.female} f, {came.male} m, {came.unknown} unclear){crossed}"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    arguments.add_argument("cameras", nargs="*", help="ids of cameras; none: all")
    given = arguments.parse_args()
    # The client says here when it lost the connection and when it is back.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    printed: dict[str, str] = {}
    try:
        with Client(given.server) as client:
            # A server that is not there, or a camera that it does not know, is
            # an error now; later the watch waits for them.
            client.cameras()
            for camera in given.cameras:
                client.latest(camera)
            for event in client.watch(given.cameras):
                if isinstance(event, Gap):
                    missed = "some" if event.missed is None else event.missed
                    print(f"({missed} results missed)", flush=True)
                elif isinstance(event, Elsewhere):
                    heard = "heard" if event.is_heard else f"not heard: {event.detail}"
                    print(f"(other replicas are {heard})", flush=True)
                elif event.counts is None:
                    print("live counts are withheld (privacy mode counts_only)", file=sys.stderr)
                    return 1
                elif printed.get(event.camera_id) != (text := line(event.camera_id, event.counts)):
                    printed[event.camera_id] = text
                    print(f"{event.observed.astimezone():%H:%M:%S} {text}", flush=True)
    except (FlatframeError, ValueError) as error:
        print(f"live_counts: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
