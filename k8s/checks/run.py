"""Checks rendered manifests: run.py FOLDER PROGRAMS WORK. FOLDER holds
base.yaml, lan.yaml, cluster.yaml and edge.yaml; PROGRAMS the two services; WORK
is for scratch files. Prints what is wrong and ends with 1, or a line for each
installation. Renders nothing: `k8s/check` does."""

import re
import sys
from pathlib import Path

import yaml

import broken
import certificates
import configuration
import references
from manifests import Manifests

K8S = Path(__file__).parent.parent


def adapted_metrics():
    """Metrics that the adapter makes of recording rules that exist."""
    rules = yaml.safe_load((K8S / "components/autoscaling/adapter-rules.yaml").read_text())["rules"]
    groups = yaml.safe_load((K8S / "../observability/rules.yml").read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    return {rule["name"]["as"] for rule in rules if rule["seriesQuery"].split("{")[0] in recorded}


def secrets_by_hand():
    """Secrets that k8s/README.md tells to make."""
    return set(re.findall(r"create secret generic ([a-z-]+)", (K8S / "README.md").read_text()))


def problems(manifests, programs, adapted, by_hand):
    found = [*references.problems(manifests, adapted), *certificates.problems(manifests)]
    yield from found
    # What follows relies on objects that meet.
    if found:
        return
    yield from configuration.problems(manifests, programs, by_hand)
    yield from configuration.nats(manifests)


def main():
    folder, built, work = (Path(argument) for argument in sys.argv[1:4])
    programs = configuration.Programs(built, work)
    adapted, by_hand = adapted_metrics(), secrets_by_hand()
    installations = [
        Manifests.read("base", folder / "base.yaml"),
        Manifests.read("overlays/lan", folder / "lan.yaml"),
        Manifests.read("overlays/cluster with edge", folder / "cluster.yaml", folder / "edge.yaml"),
    ]
    wrong = []
    for manifests in installations:
        found = list(problems(manifests, programs, adapted, by_hand))
        wrong += [f"{manifests.name}: {problem}" for problem in found]
        print(f"{manifests.name}: {len(manifests.objects)} objects, {len(found)} problems")
    if wrong:
        sys.exit("\n".join(f"k8s/check: {problem}" for problem in wrong))
    missed = [what for what, manifests in broken.faults(installations[-1])
              if not list(problems(manifests, programs, adapted, by_hand))]
    if missed:
        sys.exit(f"k8s/check: these faults are not found: {missed}")
    print(f"all of {len(broken.FAULTS) + len(broken.CONFIGURATIONS)} faults are found")


if __name__ == "__main__":
    main()
