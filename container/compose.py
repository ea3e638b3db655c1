"""Checks compose.yaml: compose.py PROGRAMS WORK. That its service runs as
narrowly as in a cluster, that inference-service accepts server.toml within
mem_limit, and that ports and files meet. Starts nothing."""

import sys
import tomllib
from pathlib import Path

import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "../k8s/checks"))
from configuration import Programs, least_memory_mib, SPARE_MIB, open_ports  # noqa: E402

NARROW = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
# Files that the operator makes; all others must be there.
BY_HAND = {"./tls", "./tokens"}


def mib(text):
    if not text.endswith("m"):
        sys.exit(f"container/check: say {text} in m")
    return int(text[:-1])


def problems(compose, programs):
    volumes = compose["volumes"].keys()
    for name, service in compose["services"].items():
        for key, value in NARROW.items():
            if service.get(key) != value:
                yield f"{name}: {key} must be {value}"
        if service.get("user", "0").split(":")[0] == "0":
            yield f"{name}: runs as root"
        if service["mem_limit"] != service["memswap_limit"]:
            yield f"{name}: memswap_limit is not mem_limit: it would swap"
        if not service.get("pids_limit") or "max-size" not in service["logging"]["options"]:
            yield f"{name}: needs pids_limit and a bound of its log"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                if source not in BY_HAND and not (HERE / source).exists():
                    yield f"{name}: {source} is not there"
                if not volume.endswith(":ro"):
                    yield f"{name}: {volume} must be read-only"
            elif source not in volumes:
                yield f"{name}: there is no volume {source}"
    server = compose["services"]["inference-service"]
    text = (HERE / "server.toml").read_text()
    mounts = {"/etc/flatframe/tls": programs.secrets, "/etc/flatframe/tokens": programs.secrets,
              "/var/lib/flatframe": programs.work}
    said, budget = programs.check("inference-service", text, mounts)
    if budget is None:
        yield f"inference-service --check refuses server.toml: {said.strip()}"
        return
    least = least_memory_mib(budget)
    if not least <= mib(server["mem_limit"]) <= least + SPARE_MIB:
        yield f"mem_limit is {server['mem_limit']}; the budget is {budget:g} MiB, so it must be {least}m to {least + SPARE_MIB}m"
    settings = tomllib.loads(text)
    if settings["workers"]["count"] != server["cpus"]:
        yield f"workers.count = {settings['workers']['count']}, cpus: {server['cpus']}"
    published = {int(port.rsplit(":", 1)[1]) for port in server["ports"]}
    if published != set(open_ports(settings).values()):
        yield f"server.toml listens on {open_ports(settings)}, compose.yaml publishes {sorted(published)}"
    if not [port for port in server["ports"] if port == "127.0.0.1:9464:9464"]:
        yield "the admin port must be published on 127.0.0.1 alone"


def main():
    programs = Programs(*sys.argv[1:3])
    compose = yaml.safe_load((HERE / "compose.yaml").read_text())
    found = list(problems(compose, programs))
    if found:
        sys.exit("\n".join(f"container/check: {problem}" for problem in found))
    print("compose.yaml: good")


if __name__ == "__main__":
    main()
