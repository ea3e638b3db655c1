"""Compares the metrics and labels that rules.yml and dashboard.json name with
what two running services say. Knows neither services nor Prometheus."""

import re
import time
from pathlib import Path

HERE = Path(__file__).parent
# Prometheus adds these to everything that it reads.
TARGET_LABELS = {"instance", "job", "namespace", "pod", "le"}
# What a machine without it does not show: metric -> (label, where its values stand).
ELSEWHERE = {"flatframe_ingest_board_strain": ("strain", "ingest-service/src/board.rs")}


def expiries(text):
    """What is wrong with the ends of certificates: rules take them as unix times."""
    for name, end in re.findall(r"^(flatframe_\w+_certificate_expiry_seconds)\S* (\S+)$", text, re.MULTILINE):
        if float(end) < time.time():
            yield f"{name} is {end}, which is no unix time ahead: the alerts would read it as expired"


class Known:
    """What a service says: metric -> label -> values."""

    def __init__(self, text):
        self.described = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
        self.samples = {}
        for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
            values = self.samples.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
                values.setdefault(label, set()).add(value)
        for name, (label, source) in ELSEWHERE.items():
            if name in self.described and name not in self.samples:
                words = re.findall(r'"([a-z_]+)"', (HERE.parent / source).read_text())
                self.samples[name] = {label: set(words)}

    def labels(self, metrics):
        return TARGET_LABELS.union(*(self.samples.get(name, {}) for name in metrics))


def problems(where, expression, texts, known, recorded):
    """What is wrong with one expression and the texts that are filled from it."""
    used = re.findall(r'\b((?:flatframe_\w+(?::\w+)*)|up)\b(?:\{([^}]*)\})?', expression)
    if not used:
        yield f"{where}: names no metric of ours: {expression}"
    metrics = set()
    for name, matchers in used:
        if name == "up":
            continue
        if ":" in name:
            if name not in recorded:
                yield f"{where}: no rule records {name}"
                continue
            metrics |= recorded[name]
            continue
        metrics.add(name)
        if name not in known.samples:
            yield f"{where}: no service says {name}"
            continue
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            if label in TARGET_LABELS:
                continue
            values = known.samples[name].get(label)
            if values is None:
                yield f"{where}: {name} has no label {label}"
                continue
            wanted = value.split("|") if "~" in operator else [value]
            for one in set(wanted) - values:
                yield f"{where}: {name} has never {label}={one}: {sorted(values)}"
    grouped = re.findall(r"\b(?:by|without) \(([^)]*)\)", expression)
    named = {label.strip() for group in grouped for label in group.split(",")}
    named |= set(re.findall(r"\$labels\.(\w+)", texts)) | set(re.findall(r"\{\{(\w+)\}\}", texts))
    for label in named - known.labels(metrics):
        yield f"{where}: none of {sorted(metrics)} has a label {label}"


def base_metrics(rules):
    """Recording rule -> the services' metrics that it is made of."""
    return {rule["record"]: set(re.findall(r"flatframe_\w+", rule["expr"])) for rule in rules if "record" in rule}
