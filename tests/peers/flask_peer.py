"""Peer (b): pictures as base64 in JSON over HTTP, the way most small camera systems begin.

    python flask_peer.py --port PORT [--threads N]

    POST /detect {"image": "<base64 of a JPEG>", "rotation": 0}

Flask behind waitress, a WSGI server made for production, which keeps connections open.
"""

import argparse
import base64
import os

import waitress
from analyzer import Analyzer
from flask import Flask, jsonify, request

app = Flask(__name__)
analyzer = Analyzer()


@app.post("/detect")
def detect():
    """Answers one picture."""
    asked = request.get_json()
    try:
        jpeg = base64.b64decode(asked["image"])
        width, height, faces = analyzer.analyze(jpeg, asked.get("rotation", 0))
    except (KeyError, ValueError) as error:
        return jsonify(error=str(error)), 400
    return jsonify(width=width, height=height, faces=[vars(face) for face in faces])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    # The default limit of 100 connections would refuse cameras, not measure them.
    # select() ends at 1,024 files.
    waitress.serve(
        app, host="127.0.0.1", port=args.port, threads=args.threads, connection_limit=4096, asyncore_use_poll=True
    )


if __name__ == "__main__":
    main()
