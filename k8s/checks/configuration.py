"""That the services accept the configurations in the ConfigMaps, and that the
pods' memory, processors, ports and disks fit them. Asks the programs
themselves (`--check`), with real certificates and tokens in place of the
Secrets. Starts no service."""

import math
import os
import re
import subprocess
import tomllib
from pathlib import Path

import certificates
from manifests import bytes_of, containers, cpus_of, is_ours, pod, ports, title

MIB = 1 << 20
# A service that is within its budget must not come near its limit: it sheds
# load from 90 % of it on (limits.soft_memory_bytes).
SOFT_SHARE = 0.9
# How far above that a limit may be: the rest of the node is for others.
SPARE_MIB = 96


class Programs:
    """The built services, and files for what their configurations name."""

    def __init__(self, folder, work):
        self.folder, self.work = Path(folder), Path(work)
        self.secrets = self.work / "secrets"
        self.secrets.mkdir(exist_ok=True)
        self._certificates()
        self._tokens()

    def _run(self, *command, **more):
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)

    def _certificates(self):
        subprocess.run([Path(__file__).parent / "sign", self.secrets], check=True, timeout=60)

    def _tokens(self):
        """Made by the service, as its operator would."""
        program = self.folder / "inference-service"
        done = self._run(program, "tokens", "add", "check", "--role", "read", "--file", self.secrets / "tokens")
        if done.returncode != 0:
            raise SystemExit(f"k8s/check: {program} tokens add: {done.stderr}")

    def check(self, service, config, mounts):
        """The output and the budget in MiB (None: refused) of `service` for the text
        `config`. `mounts`: folder in the pod -> folder here."""
        for there, here in mounts.items():
            config = config.replace(f'"{there}/', f'"{here}/')
        file = self.work / f"{service}.toml"
        file.write_text(config)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FLATFRAME_")}
        done = self._run(self.folder / service, "--config", file, "--check", env=clean)
        budget = re.search(r"^memory budget: ([0-9.]+) MiB$", done.stdout, re.MULTILINE)
        good = done.returncode == 0 and budget
        return done.stdout + done.stderr, float(budget[1]) if good else None


def problems(manifests, programs, known_secrets):
    """What is wrong, as sentences. `known_secrets`: Secrets that an operator
    makes by hand, besides those of certificates."""
    found = known_secrets | certificates.secrets(manifests)
    for workload in filter(is_ours, manifests.workloads()):
        service = workload["metadata"]["name"]
        one = containers(workload)[0]
        mounts, config_at, files = {}, None, {}
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        for mount in one["volumeMounts"]:
            volume = volumes[mount["name"]]
            if "secret" in volume:
                mounts[mount["mountPath"]] = programs.secrets
                if volume["secret"]["secretName"] not in found:
                    yield f"{title(workload)}: nothing makes the Secret {volume['secret']['secretName']}: a Certificate, or k8s/README.md by hand"
            elif "persistentVolumeClaim" in volume:
                mounts[mount["mountPath"]] = programs.work
            elif "configMap" in volume:
                config_at = mount["mountPath"]
                files = manifests.find("ConfigMap", volume["configMap"]["name"])["data"]
        argument = one["args"][one["args"].index("--config") + 1]
        name = argument.removeprefix(f"{config_at}/")
        if "$(NODE_NAME)" not in name:
            if name not in files:
                yield f"{title(workload)}: {argument} is not in its ConfigMap: {sorted(files)}"
                continue
            files = {name: files[name]}
        budgets = []
        for name, text in files.items():
            said, budget = programs.check(service, text, mounts)
            if budget is None:
                yield f"{title(workload)}: {service} --check refuses {name}: {said.strip()}"
                continue
            budgets.append(budget)
            settings = tomllib.loads(text)
            yield from listening(workload, name, settings)
            if service == "inference-service":
                yield from server(manifests, workload, name, settings)
            else:
                yield from sender(manifests, workload, name, settings)
        if budgets:
            yield from memory(workload, max(budgets))


def least_memory_mib(budget_mib):
    """The lowest limit under which a service within its budget is at ease."""
    return 16 * math.ceil(budget_mib / SOFT_SHARE / 16)


def memory(workload, budget_mib):
    limit_mib = bytes_of(containers(workload)[0]["resources"]["limits"]["memory"]) / MIB
    least_mib = least_memory_mib(budget_mib)
    if not least_mib <= limit_mib <= least_mib + SPARE_MIB:
        yield (f"{title(workload)}: the memory limit is {limit_mib:g}Mi; the budget is {budget_mib:g} MiB, so it must be "
               f"{least_mib}Mi to {least_mib + SPARE_MIB}Mi, in requests and limits; or change keys of the configuration")


def open_ports(settings):
    """Name and number of the ports that a configuration opens to others."""
    listen = settings.get("listen", {})
    if "admin" in settings:
        listen = {"admin": settings["admin"]["listen"]}
    return {name: int(address.rsplit(":", 1)[1]) for name, address in listen.items()
            if isinstance(address, str) and address and not address.startswith("127.")}


def listening(workload, file, settings):
    """Ports that are open to other pods are those of the container, and back."""
    if open_ports(settings) != ports(workload):
        yield f"{title(workload)}: {file} listens on {open_ports(settings)}, its pods name {ports(workload)}"


def server(manifests, workload, file, settings):
    cpus = math.ceil(cpus_of(containers(workload)[0]["resources"]["limits"]["cpu"]))
    if settings["workers"]["count"] != cpus:
        yield f"{title(workload)}: workers.count = {settings['workers']['count']} in {file}, with {cpus} processors"
    for table, keys in (("tls", ("cert", "key", "client_ca")), ("auth", ("tokens",))):
        for key in keys:
            if not settings.get(table, {}).get(key):
                yield f"{title(workload)}: {file} does not set {table}.{key}: cameras and clients would be let in unasked"
    history = settings.get("history", {})
    if history.get("file"):
        claims = [manifests.find("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
                  for volume in pod(workload)["volumes"] if "persistentVolumeClaim" in volume]
        if not claims:
            yield f"{title(workload)}: {file} keeps a history, and no disk outlives the pod"
        for claim in claims:
            room = bytes_of(claim["spec"]["resources"]["requests"]["storage"])
            wanted = history["max_bytes"] + history["min_free_bytes"]
            if wanted > room:
                yield f"{title(claim)}: {room} bytes; history.max_bytes and min_free_bytes need {wanted}"
    bus = settings.get("bus", {}).get("nats", "")
    if bus and not has_port(manifests, bus):
        yield f"{title(workload)}: no Service is at bus.nats = {bus}"
    servers = manifests.find("StatefulSet", "nats")
    if bus and servers and settings["bus"].get("copies", 1) != servers["spec"]["replicas"]:
        yield f"{title(workload)}: bus.copies is not {servers['spec']['replicas']}, the number of NATS servers"


def sender(manifests, workload, file, settings):
    address = settings["server"]["address"]
    if not address.startswith("https://"):
        yield f"{title(workload)}: {file}: server.address = {address} has no encryption"
    if not has_port(manifests, address):
        yield f"{title(workload)}: {file}: no Service is at server.address = {address}"
    secrets = [volume["secret"]["secretName"] for volume in pod(workload)["volumes"] if "secret" in volume]
    allowed = set().union(*(certificates.cameras(manifests, name) for name in secrets))
    for camera in settings["camera"]:
        if camera["id"] not in allowed:
            yield f"{title(workload)}: {file}: no certificate names the camera {camera['id']}: {sorted(allowed)}"


def has_port(manifests, address):
    """Whether `scheme://name:port` is a Service of these manifests."""
    host, port = address.split("://", 1)[1].rsplit(":", 1)
    service = manifests.find("Service", host.split(".")[0])
    return service is not None and int(port) in [one["port"] for one in service["spec"]["ports"]]


def nats(manifests):
    """That what NATS may take fits its disk and its memory."""
    workload, config = manifests.find("StatefulSet", "nats"), None
    if not workload:
        return
    config = next(item["data"]["nats.conf"] for item in manifests.of("ConfigMap") if "nats.conf" in item.get("data", {}))
    units = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
    sizes = {key: int(value) * units[unit] for key, value, unit in re.findall(r"^\s*(\w+): (\d+)([KMG]B)$", config, re.MULTILINE)}
    disk = bytes_of(workload["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"])
    if sizes["max_file_store"] >= disk:
        yield f"{title(workload)}: max_file_store is not below the disk of {disk} bytes"
    one = containers(workload)[0]
    limit = bytes_of(one["resources"]["limits"]["memory"])
    soft = next(item["value"] for item in one["env"] if item["name"] == "GOMEMLIMIT")
    if bytes_of(soft.removesuffix("B")) >= 0.9 * limit or sizes["max_memory_store"] >= limit / 4:
        yield f"{title(workload)}: GOMEMLIMIT or max_memory_store is too near the limit of {limit} bytes"
    named = {int(port) for port in re.findall(r"^\s*(?:port|http): (\d+)$", config, re.MULTILINE)}
    if named != set(ports(workload).values()):
        yield f"{title(workload)}: nats.conf listens on {sorted(named)}, its pods name {ports(workload)}"
    routes = re.findall(r"nats://nats-\d+\.nats:6222", config)
    if len(routes) != workload["spec"]["replicas"]:
        yield f"{title(workload)}: nats.conf has {len(routes)} routes for {workload['spec']['replicas']} replicas"
