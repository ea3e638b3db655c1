"""The client: one method for each thing one can ask."""

from __future__ import annotations

import os
import pathlib
import threading
import weakref
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Callable, TypeVar, Union

import grpc

from . import convert, errors, values
from .stream import Backoff, Line, Missing, Pages, Stream, resuming
from .v1 import admin_pb2, admin_pb2_grpc, detect_pb2, detect_pb2_grpc, results_pb2, results_pb2_grpc

T = TypeVar("T")
Request = TypeVar("Request")
Response = TypeVar("Response")
Cameras = Union[str, Iterable[str]]

# Results of one call of a query: what is in memory at once.
_PAGE_RESULTS = 256
# The largest picture of the largest configuration, and then some.
_MAX_MESSAGE_BYTES = 32 << 20
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # A server that vanished without a word is noticed while a call is open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # Its pings would hold up those that find out about the server, and the
    # window, so what waits here, would grow.
    ("grpc.http2.bdp_probe", 0),
    # Pauses are ours (stream.py): gRPC's own grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_500),
    # A connection for each client: the server cuts the whole connection of a
    # stream that is not read.
    ("grpc.use_local_subchannel_pool", 1),
)


class Client:
    """A connection to an inference-service (or, for `resources`, to the
    admin.grpc_listen of an ingest-service).

    `address` is HOST:PORT. Every call that has one answer fails with
    DeadlineExceeded after `timeout_s`. `options` are gRPC channel arguments and
    win over the client's own.

    Connections are encrypted when `ca`, `token` or `credentials` is given. `ca`
    is the file (PEM) of the authority of the server's certificate; without it
    those that gRPC trusts. `token` is sent with every call, and never
    unencrypted. `credentials` are gRPC's own, in place of `ca`.

    Threads may share a client. All its calls share one connection, and the
    server closes the connection of a stream that is not read: one that is read
    slowly deserves a client of its own.

    Methods raise FlatframeError, and ValueError for arguments that cannot be
    meant. `cameras` is one id or several; none means all."""

    def __init__(
        self,
        address: str,
        *,
        ca: str | os.PathLike[str] | None = None,
        token: str | None = None,
        timeout_s: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[tuple[str, int | str]] = (),
    ) -> None:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit()) or "/" in address:
            raise ValueError(f"address = {address!r}: use HOST:PORT")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s = {timeout_s}: use more than 0")
        if ca is not None and credentials is not None:
            raise ValueError("ca and credentials: use one of them")
        if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("token: use what `inference-service tokens add` printed")
        if ca is not None:
            credentials = grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes())
        elif token is not None and credentials is None:
            credentials = grpc.ssl_channel_credentials()
        if token is not None and credentials is not None:
            bearer = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, bearer)
        merged = list({**dict(_OPTIONS), **dict(options)}.items())
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=merged)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=merged)
        self._timeout_s = timeout_s
        self._results = results_pb2_grpc.ResultServiceStub(self._channel)
        self._detect = detect_pb2_grpc.DetectServiceStub(self._channel)
        self._admin = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._lock = threading.Lock()
        self._is_closed = False
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all streams and the connection."""
        with self._lock:
            self._is_closed = True
            lines = list(self._lines)
        for line in lines:
            line.leave()
        self._channel.close()

    # --- now ------------------------------------------------------------------

    def cameras(self) -> values.Answer[values.Camera]:
        """All cameras known since the server started, by id."""
        answer = self._ask(self._results.ListCameras, results_pb2.ListCamerasRequest())
        return values.Answer(map(convert.camera, answer.cameras), answer.incomplete)

    def latest(self, camera: str) -> values.Latest:
        """The newest result of a camera and how old it is."""
        return convert.latest(self._ask(self._results.GetLatest, results_pb2.GetLatestRequest(camera_id=camera)))

    def snapshot(
        self, camera: str, style: values.SnapshotStyle | None = None, max_width_px: int | None = None
    ) -> values.Snapshot:
        """The newest analysed picture of a camera. Without `style`: as much as
        the server's privacy mode allows."""
        request = results_pb2.GetSnapshotRequest(
            camera_id=camera, style=_wire_style(style), max_width_px=max_width_px or 0
        )
        return convert.snapshot(self._ask(self._results.GetSnapshot, request).snapshot)

    def incident_snapshot(
        self,
        incident: values.Incident,
        moment: values.IncidentMoment = values.IncidentMoment.START,
        style: values.SnapshotStyle | None = None,
        max_width_px: int | None = None,
    ) -> values.Snapshot:
        """How the camera of an incident looked then. The latest are kept, in
        memory: NotFound when it is not. An incident of the server has none;
        of another replica's incidents that one alone has pictures."""
        if incident.replica is not None:
            raise ValueError(f"the pictures of this incident are at replica {incident.replica}: ask it")
        if incident.camera_id is None:
            raise ValueError("an incident of the server has no picture: use one of a camera")
        request = results_pb2.GetSnapshotRequest(
            camera_id=incident.camera_id or "",
            style=_wire_style(style),
            max_width_px=max_width_px or 0,
            incident_id=incident.incident_id,
            moment=results_pb2.IncidentMoment.ValueType(moment.value),
        )
        return convert.snapshot(self._ask(self._results.GetSnapshot, request).snapshot)

    def detect(self, jpeg: bytes, rotation_degrees: int = 0) -> values.DetectedFaces:
        """The faces in one picture. `rotation_degrees` clockwise makes it
        upright: 0, 90, 180 or 270."""
        request = detect_pb2.DetectRequest(jpeg=jpeg, rotation_degrees=rotation_degrees)
        return convert.detected(self._ask(self._detect.Detect, request))

    def resources(self) -> values.Resources:
        """Memory, files and threads of the service beside its computed budget."""
        return convert.resources(self._ask(self._admin.GetResources, admin_pb2.GetResourcesRequest()))

    def reset_occupancy(self, camera: str, line: str, occupancy: int = 0) -> None:
        """Sets how many people are beyond a line."""
        request = results_pb2.ResetOccupancyRequest(camera_id=camera, name=line, occupancy=occupancy)
        self._ask(self._results.ResetOccupancy, request)

    # --- history --------------------------------------------------------------

    def results(self, camera: str, from_: datetime, to: datetime) -> Pages[values.FrameResult]:
        """Results of a camera from history, oldest first, from `from_` (inclusive) to
        `to` (exclusive), to the millisecond. Takes a page at a time and may be
        read as slowly as one likes. A page that fails for a passing reason is
        asked for again for `timeout_s`; the first is not."""
        first = results_pb2.QueryResultsRequest(
            camera_id=camera,
            from_unix_ms=convert.unix_ms("from_", from_),
            to_unix_ms=convert.unix_ms("to", to),
            max_results=_PAGE_RESULTS,
        )
        line, missing = self._line(), Missing()
        return Pages(line, self._pages(line, first, missing), missing)

    def _pages(
        self, line: Line, first: results_pb2.QueryResultsRequest, missing: Missing
    ) -> Iterator[values.FrameResult]:
        backoff = Backoff(patience_s=0.0)
        token = ""
        while not line.is_left:
            request = results_pb2.QueryResultsRequest()
            request.CopyFrom(first)
            request.page_token = token
            failed: errors.FlatframeError | None = None
            try:
                call = self._results.QueryResults(request, timeout=self._timeout_s)
                line.hold(call)
                answers = list(call)
            except grpc.RpcError as error:
                failed = errors.of_rpc(error)
            if line.is_left:
                return
            if failed is not None:
                line.pause(backoff.pause_s(failed))
                continue
            for answer in answers:
                missing.why = answer.incomplete or missing.why
                for result in answer.results:
                    yield convert.result(result)
            token = answers[-1].next_page_token if answers else ""
            if not token:
                return
            backoff = Backoff(patience_s=self._timeout_s)

    def counts(
        self, from_: datetime, to: datetime, bucket: timedelta, cameras: Cameras = (), *, per_camera: bool = False
    ) -> values.Answer[values.CountSeries]:
        """People counted from `from_` (inclusive) to `to` (exclusive), to the
        second, in buckets of time: one series for each camera, or all summed."""
        request = results_pb2.QueryCountsRequest(
            camera_ids=convert.camera_ids(cameras),
            from_unix_s=convert.unix_s("from_", from_),
            to_unix_s=convert.unix_s("to", to),
            bucket_s=convert.whole_seconds("bucket", bucket),
            per_camera=per_camera,
        )
        answer = self._ask(self._results.QueryCounts, request)
        return values.Answer(map(convert.series, answer.series), answer.incomplete)

    def incidents(self, cameras: Cameras = ()) -> values.Answer[values.Incident]:
        """Incidents that are open, and the latest that are over. `incomplete`
        says why those of other replicas may be missing."""
        request = results_pb2.WatchIncidentsRequest(camera_ids=convert.camera_ids(cameras), only_known=True)
        answers = self._ask(lambda *args, **kwargs: list(self._results.WatchIncidents(*args, **kwargs)), request)
        told = (answer.elsewhere.detail for answer in answers if answer.HasField("elsewhere"))
        incidents = (convert.incident(answer.incident) for answer in answers if answer.HasField("incident"))
        return values.Answer(incidents, next(told, ""))

    # --- as it happens --------------------------------------------------------
    #
    # A watch lasts until it is left. When the connection is lost, or was never
    # had, it is tried again for `patience_s` seconds (None: for ever); the
    # logger "flatframe" tells when that begins and ends. Other errors are
    # raised.

    def watch(
        self,
        cameras: Cameras = (),
        after: values.Position | None = None,
        *,
        patience_s: float | None = None,
    ) -> Stream[values.WatchEvent]:
        """Live results from now on, or from `after` (a result's `position`) as
        far as the server still holds them. What is missed, also by a lost
        connection, is told by a Gap in its place; that other replicas are not
        heard, and that they are again, by Elsewhere."""
        request = results_pb2.WatchRequest(camera_ids=convert.camera_ids(cameras))
        if after is not None:
            _set_after(request, after)
        line = self._line()
        messages = resuming(line, lambda: self._results.Watch(request), patience_s)
        return Stream(line, _watched(messages, request))

    def watch_incidents(
        self, cameras: Cameras = (), *, patience_s: float | None = None
    ) -> Stream[values.IncidentEvent]:
        """Incidents that are open, the latest that are over, then every change
        as it happens. After a lost connection: an IncidentGap, then all that
        the server knows. That other replicas are not heard, and that they are
        again, is told by Elsewhere."""
        request = results_pb2.WatchIncidentsRequest(camera_ids=convert.camera_ids(cameras))
        line = self._line()

        messages = resuming(line, lambda: self._results.WatchIncidents(request), patience_s)

        def items() -> Iterator[values.IncidentEvent]:
            for message in messages:
                if message is None:
                    yield values.IncidentGap(None)
                elif message.HasField("incident"):
                    yield convert.incident(message.incident)
                elif message.HasField("gap"):
                    yield convert.incident_gap(message.gap)
                elif message.HasField("elsewhere"):
                    yield convert.elsewhere(message.elsewhere)

        return Stream(line, items())

    def watch_snapshots(
        self,
        cameras: Cameras = (),
        style: values.SnapshotStyle | None = None,
        max_width_px: int | None = None,
        max_fps: float | None = None,
        *,
        patience_s: float | None = None,
    ) -> Stream[values.Snapshot]:
        """The newest pictures as they come, at most `max_fps` of each camera a
        second. A picture that was not taken in time is replaced by a newer one:
        there are no gaps."""
        request = results_pb2.WatchSnapshotsRequest(
            camera_ids=convert.camera_ids(cameras),
            style=_wire_style(style),
            max_width_px=max_width_px or 0,
            max_fps=max_fps or 0.0,
        )
        line = self._line()

        messages = resuming(line, lambda: self._results.WatchSnapshots(request), patience_s)

        def items() -> Iterator[values.Snapshot]:
            for message in messages:
                # Without a picture it only says that the stream lives.
                if message is not None and message.HasField("snapshot"):
                    yield convert.snapshot(message.snapshot)

        return Stream(line, items())

    # --- how calls are made ---------------------------------------------------

    def _ask(self, call: Callable[..., Response], request: object) -> Response:
        with self._lock:
            self._refuse_when_closed()
        try:
            return call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise errors.of_rpc(error) from None

    def _line(self) -> Line:
        line = Line()
        with self._lock:
            self._refuse_when_closed()
            self._lines.add(line)
        return line

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise ValueError("the client is closed")


def _watched(
    messages: Iterator[results_pb2.WatchResponse | None], request: results_pb2.WatchRequest
) -> Iterator[values.WatchEvent]:
    """What the messages of a watch say; keeps in `request` where it stands."""
    # The server's run, once a result on this connection has told it.
    epoch: int | None = None
    for message in messages:
        has_position = request.HasField("after_position")
        if message is None:
            epoch = None
            if not has_position:
                yield values.Gap(None, None)
        elif message.HasField("result"):
            result = convert.result(message.result)
            epoch = result.position.server_epoch
            is_new_run = has_position and request.after_server_epoch != epoch
            _set_after(request, result.position)
            if is_new_run:
                yield values.Gap(None, None)
            yield result
        elif message.HasField("gap"):
            if epoch is not None:
                _set_after(request, values.Position(epoch, message.gap.last_missed_position))
            yield convert.gap(message.gap)
        elif message.HasField("elsewhere"):
            yield convert.elsewhere(message.elsewhere)


def _set_after(request: results_pb2.WatchRequest, position: values.Position) -> None:
    request.after_server_epoch, request.after_position = position.server_epoch, position.number


def _wire_style(style: values.SnapshotStyle | None) -> results_pb2.SnapshotStyle.ValueType:
    return results_pb2.SnapshotStyle.ValueType(0 if style is None else style.value)


def connect(
    address: str, *, ca: str | os.PathLike[str] | None = None, token: str | None = None, timeout_s: float = 10.0
) -> Client:
    """A client of the inference-service at `address` (HOST:PORT). `ca` and
    `token` as in Client."""
    return Client(address, ca=ca, token=token, timeout_s=timeout_s)
