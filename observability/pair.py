"""A running pair of services to look at: TLS, a history, a recording, one
camera. Everything listens on loopback, on free ports, and ends with the `with`.
Judges nothing."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
# The trend of memory needs so long to say anything; no longer on a slow machine.
DEADLINE_S = 90

SERVER = """
[listen]
grpc = "127.0.0.1:{grpc}"
admin = "127.0.0.1:{server}"
page = ""
[tls]
cert = "{work}/tls.crt"
key = "{work}/tls.key"
client_ca = "{work}/ca.crt"
[limits]
max_streams = 4
[workers]
count = 1
[history]
file = "{work}/history.db"
min_free_bytes = 0
"""
BOX = """
[server]
address = "https://localhost:{grpc}"
ca = "{work}/ca.crt"
cert = "{work}/tls.crt"
key = "{work}/tls.key"
[admin]
listen = "127.0.0.1:{box}"
[recording]
dir = "{work}/recording"
min_free_bytes = 0
[[camera]]
id = "front-door"
source = "pattern"
fps = 5.0
record = "continuous"
"""


def fail(message):
    sys.exit(f"observability/check: {message}")


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return numbers


class Pair:
    """The two services, from `with` to its end. `ports`: grpc, server and box."""

    def __init__(self, programs, work):
        self.work = work
        self.programs = programs
        self.ports = dict(zip(("grpc", "server", "box"), free_ports(3)))
        self.running = []

    def __enter__(self):
        subprocess.run([HERE / "../k8s/checks/sign", self.work], check=True, timeout=60)
        try:
            for service, text in (("inference-service", SERVER), ("ingest-service", BOX)):
                file = self.work / f"{service}.toml"
                file.write_text(text.format(work=self.work, **self.ports))
                (self.work / f"run-{service}").mkdir()
                self.start(service, [self.programs / service, "--config", file],
                           {"RUNTIME_DIRECTORY": str(self.work / f"run-{service}")})
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, name, command, more=None):
        """Starts a program that ends with the pair; its log is WORK/NAME.log."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLATFRAME_")}
        with (self.work / f"{name}.log").open("w") as log:
            self.running.append((name, subprocess.Popen(command, stdout=log, stderr=log, env=clean | (more or {}))))

    def __exit__(self, *_):
        for _, process in self.running:
            process.terminate()
        for _, process in self.running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def until(self, what, look):
        """What `look` gives once it gives anything; fails after the deadline, or
        when a program has ended."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            for name, process in self.running:
                if process.poll() is not None:
                    fail(f"{name} has ended: {(self.work / f'{name}.log').read_text()[-2000:]}")
            try:
                found = look()
            except OSError:
                found = None
            if found:
                return found
            time.sleep(0.5)
        logs = "".join((self.work / f"{name}.log").read_text()[-1000:] for name, _ in self.running)
        fail(f"not within {DEADLINE_S} s: {what}: {logs}")

    def metrics(self):
        """The text of both /metrics, once a frame is analysed and the trend known."""
        def look():
            text = "".join(read(f"http://127.0.0.1:{self.ports[name]}/metrics") for name in ("server", "box"))
            analyzed = re.search(r'frames_total\{[^}]*outcome="analyzed"[^}]*\} [1-9]', text)
            trends = ("flatframe_inference_rss_slope ", "flatframe_ingest_rss_slope ")
            return text if analyzed and all(trend in text for trend in trends) else None

        return self.until("a frame is analysed and the trend of memory is known", look)


def read(address):
    with urllib.request.urlopen(address, timeout=5) as answer:
        return answer.read().decode()
