"""Peer (a): DetectService as a Python gRPC server, from the project's own proto.

    python grpc_peer.py --port PORT [--threads N] [--max-calls N]

A thread pool as in gRPC's own examples. Calls whose client has gone are not computed: grpcio looks before
it calls the handler. --max-calls refuses calls beyond so many at once with RESOURCE_EXHAUSTED; without it
calls wait in the pool's queue, which is grpcio's default.
"""

import argparse
import os
import time
from concurrent import futures

import grpc
from analyzer import Analyzer
from flatframe.v1 import detect_pb2, detect_pb2_grpc, results_pb2

GENDERS = {
    "female": results_pb2.GENDER_FEMALE,
    "male": results_pb2.GENDER_MALE,
    "unknown": results_pb2.GENDER_UNKNOWN,
}


def to_wire(face):
    """One face as the proto has it."""
    left, top, width, height = face.box
    return results_pb2.Face(
        box=results_pb2.Box(x_px=left, y_px=top, width_px=width, height_px=height),
        score=face.score,
        landmarks=[results_pb2.Point(x_px=x, y_px=y) for x, y in face.landmarks],
        gender=GENDERS[face.gender],
        female_probability=face.female,
    )


class DetectService(detect_pb2_grpc.DetectServiceServicer):
    """Answers one picture per call."""

    def __init__(self):
        self.analyzer = Analyzer()

    def Detect(self, request, context):
        start = time.perf_counter()
        if request.rotation_degrees not in (0, 90, 180, 270):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "rotation_degrees: use 0, 90, 180 or 270")
        try:
            width, height, faces = self.analyzer.analyze(request.jpeg, request.rotation_degrees)
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return detect_pb2.DetectResponse(
            width_px=width,
            height_px=height,
            faces=map(to_wire, faces),
            detector="flatface-det",
            gender_model="flatface-gender",
            analysis_us=int((time.perf_counter() - start) * 1e6),
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--max-calls", type=int)
    args = parser.parse_args()
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=args.threads), maximum_concurrent_rpcs=args.max_calls
    )
    detect_pb2_grpc.add_DetectServiceServicer_to_server(DetectService(), server)
    server.add_insecure_port(f"127.0.0.1:{args.port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
