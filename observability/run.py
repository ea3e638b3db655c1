"""The part of `check` that needs running services: run.py PROGRAMS PROMETHEUS.
PROGRAMS holds the two services, PROMETHEUS is a server's program. Prints what is
wrong and ends with 1, or what was looked at."""

import json
import sys
import tempfile
from pathlib import Path

import yaml

import evaluate
import metrics
from pair import Pair, fail

HERE = Path(__file__).parent
# Wrong in one way each: what the comparison must find.
FAULTS = (
    "flatframe_inference_frames",
    'flatframe_inference_frames_total{outcome="analysed"}',
    'flatframe_inference_frames_total{result="shed"}',
    "flatframe_inference:busy:share",
    "sum by (kamera) (flatframe_inference_frames_total)",
)


def main():
    programs, prometheus = Path(sys.argv[1]).resolve(), sys.argv[2]
    rules = [rule for group in yaml.safe_load((HERE / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    adapter_rules = yaml.safe_load((HERE / "../k8s/components/autoscaling/adapter-rules.yaml").read_text())["rules"]
    recorded = metrics.base_metrics(rules)
    with tempfile.TemporaryDirectory() as work, Pair(programs, Path(work)) as pair:
        text = pair.metrics()
        wrong = list(evaluate.problems(pair, prometheus, panels, adapter_rules))
    known = metrics.Known(text)
    wrong += metrics.expiries(text)
    count = 0
    for rule in rules:
        texts = json.dumps(rule.get("annotations", {}))
        wrong += metrics.problems(rule.get("alert") or rule["record"], rule["expr"], texts, known, recorded)
        count += 1
    for panel in panels:
        for target in panel.get("targets", []):
            wrong += metrics.problems(panel["title"], target["expr"], target["legendFormat"], known, recorded)
            count += 1
    for expression in FAULTS:
        if not list(metrics.problems("", expression, "", known, recorded)):
            fail(f"the comparison finds nothing wrong with {expression}")
    if wrong:
        fail("\n".join(wrong))
    print(f"{count} expressions can be computed, and name only what {len(known.samples)} metrics of a running pair have")


if __name__ == "__main__":
    main()
