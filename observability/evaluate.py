"""Has a real Prometheus read the pair, and asks it whether every rule and every
line of the dashboard can be computed, what the autoscaler's adapter gets, and
whether a healthy pair is left in peace. Starts it on loopback with storage of
its own."""

import json
import time
import urllib.parse
from pathlib import Path

from pair import free_ports, read

HERE = Path(__file__).parent
CONFIG = """
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: inference-service
    # As a cluster names what it reads.
    static_configs: [{{ targets: ["127.0.0.1:{server}"], labels: {{ namespace: flatframe, pod: server-0 }} }}]
  - job_name: ingest-service
    static_configs: [{{ targets: ["127.0.0.1:{box}"] }}]
"""
# Lines that are empty where all is well, or where this machine has no board.
MAY_BE_EMPTY = ("> 0", "board_strain", "budget_used", "dropped:ratio", "unanalyzed:ratio")


class Prometheus:
    """A server that reads `pair`."""

    def __init__(self, pair, program):
        self.pair, self.port = pair, free_ports(1)[0]
        config = pair.work / "prometheus.yml"
        config.write_text(CONFIG.format(rules=HERE / "rules.yml", **pair.ports))
        pair.start("prometheus", [
            program, f"--config.file={config}", f"--storage.tsdb.path={pair.work / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"])

    def ask(self, what, **more):
        query = urllib.parse.urlencode(more)
        return json.loads(read(f"http://127.0.0.1:{self.port}/api/v1/{what}?{query}"))["data"]

    def rules(self):
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def query(self, expression):
        """The series of an expression; `ValueError` where it cannot be computed."""
        try:
            return self.ask("query", query=expression)["result"]
        except OSError as error:
            raise ValueError(error) from error


def adapted(rule):
    """What prometheus-adapter asks for the pods of a namespace by its rule."""
    series = rule["seriesQuery"].split("{")[0]
    filled = {"Series": series, "LabelMatchers": 'namespace="flatframe",pod=~"server-0|server-1"', "GroupBy": "pod"}
    query = rule["metricsQuery"]
    for name, value in filled.items():
        query = query.replace(f"<<.{name}>>", value)
    return query


def problems(pair, program, panels, adapter_rules):
    """What is wrong, as sentences."""
    prometheus = Prometheus(pair, program)
    since = time.monotonic()

    def busy():
        # `rate` needs two readings, histograms a little more.
        return time.monotonic() - since > 10 and prometheus.query("flatframe_inference:busy:ratio")

    pair.until("Prometheus computes flatframe_inference:busy:ratio", busy)
    for rule in prometheus.rules():
        if rule["health"] != "ok":
            yield f"{rule['name']} cannot be computed: {rule.get('lastError')}"
        if rule.get("state") == "firing":
            yield f"{rule['name']} fires at a healthy pair: {[one['annotations'] for one in rule['alerts']]}"
    for rule in adapter_rules:
        found = prometheus.query(adapted(rule))
        if [one["metric"] for one in found] != [{"pod": "server-0"}]:
            yield f"the adapter's rule for {rule['name']['as']} gives {found}, not one value for one pod"
    for panel in panels:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$server", ".*").replace("$box", ".*")
            try:
                found = prometheus.query(expression)
            except ValueError as error:
                yield f"{panel['title']}: {expression} cannot be computed: {error}"
                continue
            if not found and not any(part in expression for part in MAY_BE_EMPTY):
                yield f"{panel['title']}: {expression} shows nothing"
