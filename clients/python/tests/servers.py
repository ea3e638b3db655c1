"""The real services as child processes on free loopback ports. Kills only its
own children; every wait is bounded."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Callable, TypeVar

from flatframe import Client, Unavailable, connect

T = TypeVar("T")

PATIENCE_S = 30.0
_BINARIES = pathlib.Path(
    os.environ.get("FLATFRAME_BIN") or pathlib.Path(__file__).resolve().parents[3] / "target" / "debug"
)


def missing() -> str | None:
    """Why the services cannot be started."""
    names = [name for name in ("inference-service", "ingest-service") if not (_BINARIES / name).is_file()]
    return f"{' and '.join(names)} not in {_BINARIES}: cargo build, or set FLATFRAME_BIN" if names else None


def until(what: str, look: Callable[[], T | None]) -> T:
    """Looks again and again until there is something true to see."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


class Child:
    """A program that is ended with the test."""

    def __init__(self, command: list[str], folder: pathlib.Path, name: str) -> None:
        self._command, self._folder = command, folder
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None, "started twice"
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def freeze(self) -> None:
        """Stops it in its tracks, until its end."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def check_alive(self) -> None:
        assert self._process is not None, "not started"
        code = self._process.poll()
        assert code is None, f"ended with {code}:\n{self._log.read_text()[-4000:]}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def command(folder: pathlib.Path, *arguments: str) -> str:
    """What a command of inference-service prints."""
    done = subprocess.run(
        [str(_BINARIES / "inference-service"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


class Inference(Child):
    """An inference-service; `ca` and `token` are what its clients need."""

    def __init__(
        self,
        folder: pathlib.Path,
        settings: Mapping[str, object],
        ca: pathlib.Path | None = None,
        token: str | None = None,
    ) -> None:
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._ca, self._token = ca, token
        all_settings: dict[str, object] = {
            "listen.grpc": self.address,
            "listen.admin": "127.0.0.1:0",
            "listen.page": "",
            "telemetry.log": "info",
            **settings,
        }
        lines = [f"{key} = {_toml(value)}" for key, value in all_settings.items()]
        (folder / "inference.toml").write_text("\n".join(lines))
        super().__init__([str(_BINARIES / "inference-service"), "--config", "inference.toml"], folder, "inference")

    def start(self) -> None:
        super().start()
        with connect(self.address, ca=self._ca, token=self._token) as client:

            def answers() -> bool:
                self.check_alive()
                try:
                    client.cameras()
                except Unavailable:
                    return False
                return True

            until("the server answers", answers)


class Ingest(Child):
    """An ingest-service with `pattern` cameras, given by id and rate."""

    def __init__(self, folder: pathlib.Path, server: str, cameras: Mapping[str, float]) -> None:
        (port,) = free_ports(1)
        self.admin_address = f"127.0.0.1:{port}"
        config = [
            f'[server]\naddress = "http://{server}"\n[admin]\nlisten = ""\ngrpc_listen = "{self.admin_address}"\n',
            *(
                f'[[camera]]\nid = "{camera}"\nsource = "pattern"\nfps = {fps}\nwidth_px = 320\nheight_px = 240\n'
                for camera, fps in cameras.items()
            ),
        ]
        (folder / "ingest.toml").write_text("\n".join(config))
        super().__init__([str(_BINARIES / "ingest-service"), "--config", "ingest.toml"], folder, "ingest")


class House:
    """A server with cameras that are live."""

    def __init__(
        self, folder: pathlib.Path, cameras: Mapping[str, float], settings: Mapping[str, object] | None = None
    ) -> None:
        self.folder, self.cameras = folder, cameras
        self.server = Inference(folder, settings or {})
        self.ingest = Ingest(folder, self.server.address, cameras)

    @property
    def address(self) -> str:
        return self.server.address

    def __enter__(self) -> House:
        try:
            self.server.start()
            self.ingest.start()
            with Client(self.address) as client:
                until("all cameras are analysed", lambda: self._is_live(client))
        except BaseException:
            self.end()
            raise
        return self

    def _is_live(self, client: Client) -> bool:
        self.server.check_alive()
        self.ingest.check_alive()
        known = [camera.camera_id for camera in client.cameras()]
        return known == sorted(self.cameras) and all(client.latest(camera).result for camera in known)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        self.ingest.end()
        self.server.end()
