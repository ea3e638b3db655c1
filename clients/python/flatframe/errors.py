"""What a call may fail with: one class per gRPC code that a caller would tell
apart, with the server's words. The only place that reads statuses."""

from __future__ import annotations

from datetime import timedelta

import grpc
from google.protobuf.message import DecodeError

from . import status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_RETRY_INFO = "google.rpc.RetryInfo"


class FlatframeError(Exception):
    """A call failed. `code` is gRPC's, `message` says why in the server's
    words, `retry_after` how long it asks to wait (None: it does not say)."""

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(code, message, retry_after)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    @property
    def is_passing(self) -> bool:
        """Whether the same call may well succeed later. A limit passes where
        the server says when to come back; without that it is, for example, an
        answer larger than this client takes."""
        return self.code in _PASSING or self.retry_after is not None

    def __str__(self) -> str:
        again = "" if self.retry_after is None else f" (try again in {self.retry_after.total_seconds():g} s)"
        return f"{self.code.name}: {self.message}{again}"


class InvalidArgument(FlatframeError):
    """The request is wrong and will stay wrong."""


class NotFound(FlatframeError):
    """The server knows no such camera or line."""


class FailedPrecondition(FlatframeError):
    """The request is right, but not for this server, or not yet."""


class Unauthenticated(FlatframeError):
    """The server wants a token, or does not know this one, or its time is over."""


class PermissionDenied(FlatframeError):
    """The privacy mode forbids it, or the token's role does."""


class Unimplemented(FlatframeError):
    """The server does not know the call: it is older, or something else."""


class ResourceExhausted(FlatframeError):
    """A limit is reached."""


class Unavailable(FlatframeError):
    """The server cannot be reached, is stopping, or the connection broke."""


class DeadlineExceeded(FlatframeError):
    """No answer in time."""


class BrokenOff(FlatframeError):
    """The call was ended by something in between, or failed inside the server."""


_CLASSES: dict[grpc.StatusCode, type[FlatframeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.ABORTED: BrokenOff,
    grpc.StatusCode.CANCELLED: BrokenOff,
    grpc.StatusCode.INTERNAL: BrokenOff,
    grpc.StatusCode.UNKNOWN: BrokenOff,
}
_PASSING = frozenset(code for code, kind in _CLASSES.items() if kind in (Unavailable, DeadlineExceeded, BrokenOff))


def of_rpc(error: grpc.RpcError) -> FlatframeError:
    """The error that gRPC's stands for."""
    if not isinstance(error, grpc.Call):
        return BrokenOff(grpc.StatusCode.UNKNOWN, str(error))
    code, message = error.code(), error.details() or "no reason was given"
    retry_after = None
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            retry_after = _retry_after(value)
    return _CLASSES.get(code, FlatframeError)(code, message, retry_after)


def _retry_after(details: bytes) -> timedelta | None:
    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.type_url.rpartition("/")[2] == _RETRY_INFO:
                delay = status_pb2.RetryInfo.FromString(detail.value).retry_delay
                return timedelta(seconds=delay.seconds, microseconds=delay.nanos // 1000)
    except (DecodeError, OverflowError):
        pass  # What cannot be read says nothing.
    return None
