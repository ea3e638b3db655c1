"""Rendered manifests as Python objects, and what several checks ask of them.
Judges nothing."""

import dataclasses
from pathlib import Path

import yaml

# Kinds that run pods.
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")


@dataclasses.dataclass
class Manifests:
    """All objects of one installation."""

    name: str
    objects: list

    @classmethod
    def read(cls, name, *files):
        objects = [item for file in files for item in yaml.safe_load_all(Path(file).read_text()) if item]
        return cls(name, objects)

    def of(self, *kinds):
        return [item for item in self.objects if item["kind"] in kinds]

    def find(self, kind, name):
        return next((item for item in self.of(kind) if item["metadata"]["name"] == name), None)

    def workloads(self):
        return self.of(*WORKLOADS)

    def selected(self, labels):
        """Workloads whose pods have all these labels; an empty selector is a mistake here."""
        return [item for item in self.workloads() if labels and labels.items() <= pod_labels(item).items()]


def title(item):
    return f"{item['kind']} {item['metadata']['name']}"


def pod(workload):
    return workload["spec"]["template"]["spec"]


def pod_labels(workload):
    return workload["spec"]["template"]["metadata"].get("labels", {})


def containers(workload):
    return pod(workload).get("initContainers", []) + pod(workload)["containers"]


def ports(workload):
    """Name and number of every port of the pods."""
    return {port["name"]: port["containerPort"] for item in containers(workload) for port in item.get("ports", [])}


def is_ours(workload):
    """Whether it runs one of our two services."""
    return workload["metadata"]["name"] in ("inference-service", "ingest-service")


def bytes_of(quantity):
    """A Kubernetes quantity of memory or disk, in bytes."""
    text = str(quantity)
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9}
    for unit, factor in units.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def cpus_of(quantity):
    """A Kubernetes quantity of CPU, in cores."""
    text = str(quantity)
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)
