"""Calls with many answers: how they are held open, opened again, and left. A
stream holds at most one call; what it has not taken waits in the server's
bounded queue and in gRPC's window, nowhere here."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Callable, Generic, Protocol, TypeVar

import grpc

from . import errors

_LOG = logging.getLogger("flatframe")
# Pauses between attempts grow from the first to the last, as the services' do.
_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 2.5
# A server that asks for longer is asked again after this.
_LONGEST_RETRY_AFTER_S = 60.0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StreamingCall(Protocol[T_co]):
    """What gRPC gives for a call with many answers."""

    def __iter__(self) -> Iterator[T_co]: ...

    def cancel(self) -> object: ...

    def initial_metadata(self) -> object: ...


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Line:
    """The one call that a stream holds, and whether it was left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._call: _Cancellable | None = None

    @property
    def is_left(self) -> bool:
        return self._left.is_set()

    def hold(self, call: _Cancellable) -> None:
        with self._lock:
            self._call = call
            is_left = self._left.is_set()
        if is_left:
            call.cancel()

    def leave(self) -> None:
        with self._lock:
            self._left.set()
            call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def pause(self, seconds: float) -> None:
        """Waits, but not when left."""
        self._left.wait(seconds)


class Stream(Generic[T]):
    """An iterator over what a call gives. Leaving it closes the call: by
    `with`, by `close()` (also from another thread), or by dropping it."""

    def __init__(self, line: Line, items: Iterator[T]) -> None:
        self._line = line
        self._items = items

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        self._line.leave()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Missing:
    """Why something may be missing, as far as is known."""

    why: str | None = None


class Pages(Stream[T]):
    """A stream that says what it may lack."""

    def __init__(self, line: Line, items: Iterator[T], missing: Missing) -> None:
        super().__init__(line, items)
        self._missing = missing

    @property
    def incomplete(self) -> str | None:
        """Why results that were read, or would have been, may be missing, for a
        person; None when none are. Known from the first one on."""
        return self._missing.why


class Backoff:
    """Pauses between attempts: they grow, are bounded, and differ from client
    to client, so that a server that comes back is not stormed."""

    def __init__(self, patience_s: float | None) -> None:
        self._patience_s = patience_s
        self._failures = 0
        self._since: float | None = None

    def reset(self) -> None:
        self._failures = 0
        self._since = None

    def pause_s(self, error: errors.FlatframeError) -> float:
        """How long to wait after `error`; raises it when waiting is in vain, or
        longer than patience lasts."""
        if not error.is_passing:
            raise error
        now = time.monotonic()
        if self._since is None:
            self._since = now
        pause_s = min(_LAST_PAUSE_S, _FIRST_PAUSE_S * (1 << min(self._failures, 16))) * random.uniform(0.5, 1.0)
        if error.retry_after is not None:
            asked_s = min(error.retry_after.total_seconds(), _LONGEST_RETRY_AFTER_S)
            pause_s = max(pause_s, asked_s * random.uniform(1.0, 1.2))
        if self._patience_s is not None and now + pause_s - self._since > self._patience_s:
            raise error
        self._failures += 1
        return pause_s


def resuming(line: Line, open_call: Callable[[], StreamingCall[T]], patience_s: float | None) -> Iterator[T | None]:
    """The messages of a call, which is opened now and again whenever it breaks;
    None in each place where that happened to a call that had stood."""
    first = open_call()
    line.hold(first)
    return _resume(line, first, open_call, Backoff(patience_s))


def _resume(
    line: Line, call: StreamingCall[T], open_call: Callable[[], StreamingCall[T]], backoff: Backoff
) -> Iterator[T | None]:
    has_stood = is_lost = False
    while True:
        try:
            # Waits for the server's headers: a call stands before its first
            # message. One that is refused has none.
            if call.initial_metadata():
                backoff.reset()
                if is_lost:
                    _LOG.info("connected again")
                if has_stood:
                    yield None
                has_stood, is_lost = True, False
            for message in call:
                if line.is_left:
                    return
                yield message
            error: errors.FlatframeError = errors.Unavailable(
                grpc.StatusCode.UNAVAILABLE, "the server ended the stream"
            )
        except grpc.RpcError as rpc_error:
            error = errors.of_rpc(rpc_error)
        if line.is_left:
            return
        pause_s = backoff.pause_s(error)
        if not is_lost:
            _LOG.warning("no connection, trying again: %s", error)
            is_lost = True
        line.pause(pause_s)
        try:
            call = open_call()
        except ValueError:
            # gRPC's word for a channel that was closed.
            if line.is_left:
                return
            raise
        line.hold(call)
