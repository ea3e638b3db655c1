"""What a schema cannot see between objects: that selectors, names and ports
meet, and that numbers fit each other. Every function takes the manifests and
yields what is wrong. Reads no configuration: `configuration.py` does."""

import re

from manifests import bytes_of, containers, cpus_of, is_ours, pod, pod_labels, ports, title

# What the services need to end (ARCHITECTURE.md, "Shutdown"), and to spare.
DRAIN_S, SPARE_S = 10, 5
# The restricted profile of pod security allows these and no host's folder.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def names(manifests):
    seen = set()
    for item in manifests.objects:
        key = (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
        if key in seen:
            yield f"{title(item)} is there twice"
        seen.add(key)
        if not NAME.fullmatch(key[2]) or len(key[2]) > 63:
            yield f"{title(item)}: a name has at most 63 of a-z, 0-9, '-' and '.'"


def workloads(manifests):
    for item in manifests.workloads():
        selector = item["spec"]["selector"]["matchLabels"]
        if not selector.items() <= pod_labels(item).items():
            yield f"{title(item)}: its selector {selector} does not match its own pods {pod_labels(item)}"
        others = [title(other) for other in manifests.selected(selector) if other is not item]
        if others:
            yield f"{title(item)}: its selector also matches the pods of {others}"
        account = pod(item).get("serviceAccountName")
        if not account or not manifests.find("ServiceAccount", account):
            yield f"{title(item)}: there is no ServiceAccount {account}"
        wait = sum(
            one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for one in containers(item)
        )
        grace = pod(item).get("terminationGracePeriodSeconds", 30)
        if is_ours(item) and grace < wait + DRAIN_S + SPARE_S:
            yield f"{title(item)}: terminationGracePeriodSeconds = {grace}; preStop, drain and some to spare need {wait + DRAIN_S + SPARE_S}"
        # Only one pod may have a disk that one node mounts.
        alone = any("persistentVolumeClaim" in volume for volume in pod(item).get("volumes", []))
        if item["kind"] == "Deployment" and alone:
            if item["spec"].get("replicas", 1) != 1 or item["spec"]["strategy"]["type"] != "Recreate":
                yield f"{title(item)}: with a disk of its own it needs replicas: 1 and strategy Recreate"


def pods(manifests):
    for item in manifests.workloads():
        where = title(item)
        volumes = {volume["name"]: volume for volume in pod(item).get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for one in containers(item) for mount in one.get("volumeMounts", [])}
        for name in mounted - volumes.keys() - claims:
            yield f"{where}: mounts {name}, which is no volume"
        for name in (volumes.keys() | claims) - mounted:
            yield f"{where}: nobody mounts the volume {name}"
        for name, volume in volumes.items():
            kind = next(key for key in volume if key != "name")
            if kind not in VOLUMES:
                yield f"{where}: the volume {name} is a {kind}, which the restricted profile refuses"
            if kind == "configMap" and not manifests.find("ConfigMap", volume[kind]["name"]):
                yield f"{where}: there is no ConfigMap {volume[kind]['name']}"
            if kind == "persistentVolumeClaim" and not manifests.find("PersistentVolumeClaim", volume[kind]["claimName"]):
                yield f"{where}: there is no PersistentVolumeClaim {volume[kind]['claimName']}"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod(item).get(key):
                yield f"{where}: {key} is not allowed"
        security = pod(item).get("securityContext", {})
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault" or not security.get("runAsUser"):
            yield f"{where}: securityContext needs seccompProfile RuntimeDefault and runAsUser above 0"
        for one in containers(item):
            yield from container(where, one, ports(item))
            mounts = [mount["mountPath"] + "/" for mount in one.get("volumeMounts", [])]
            for inner in mounts:
                for outer in mounts:
                    if inner != outer and inner.startswith(outer):
                        yield f"{where}: {inner} is mounted below {outer}, which is read-only"


def container(where, one, named):
    security = one.get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True}
    for key, value in wanted.items():
        if security.get(key) is not value:
            yield f"{where}: {key} must be {value}"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: capabilities must be drop: [ALL] and nothing else"
    requests, limits = one["resources"]["requests"], one["resources"]["limits"]
    if requests["memory"] != limits["memory"]:
        yield f"{where}: memory of requests ({requests['memory']}) and limits ({limits['memory']}) differ: the bound is computed, so ask for all of it"
    if cpus_of(requests["cpu"]) > cpus_of(limits["cpu"]):
        yield f"{where}: asks for more CPU than its limit"
    if bytes_of(requests["ephemeral-storage"]) > bytes_of(limits["ephemeral-storage"]):
        yield f"{where}: asks for more ephemeral storage than its limit"
    for probe in ("readinessProbe", "livenessProbe"):
        if probe not in one:
            yield f"{where}: has no {probe}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        how = one.get(probe, {"httpGet": {"port": next(iter(named))}})
        if "httpGet" not in how:
            yield f"{where}: {probe} must be httpGet: the kubelet's gRPC probe speaks no TLS"
        elif how["httpGet"]["port"] not in named:
            yield f"{where}: {probe} asks the port {how['httpGet']['port']}, which the pod does not have: {sorted(named)}"


def services(manifests):
    for item in manifests.of("Service"):
        found = manifests.selected(item["spec"].get("selector", {}))
        if not found:
            yield f"{title(item)}: its selector {item['spec'].get('selector')} matches no pods"
        for port in item["spec"]["ports"]:
            if not 1 <= port["port"] <= 65535:
                yield f"{title(item)}: {port['port']} is no port"
            for workload in found:
                if port["targetPort"] not in ports(workload):
                    yield f"{title(item)}: {title(workload)} has no port {port['targetPort']}: {sorted(ports(workload))}"
                elif port["port"] != ports(workload)[port["targetPort"]]:
                    yield f"{title(item)}: the port {port['name']} is {port['port']} here and {ports(workload)[port['targetPort']]} in the pods; a headless Service cannot translate"


def disruption_budgets(manifests):
    for item in manifests.of("PodDisruptionBudget"):
        spec = item["spec"]
        found = manifests.selected(spec["selector"]["matchLabels"])
        if not found:
            yield f"{title(item)}: its selector matches no pods"
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"{title(item)}: needs one of minAvailable and maxUnavailable"
        if spec.get("maxUnavailable") == 0:
            yield f"{title(item)}: maxUnavailable = 0 stops every node from being drained"
        for workload in found:
            least = replicas(manifests, workload)
            if spec.get("minAvailable", 0) >= least:
                yield f"{title(item)}: minAvailable = {spec['minAvailable']} of {least} stops every node from being drained"
    for workload in manifests.of("Deployment", "StatefulSet"):
        if not [item for item in manifests.of("PodDisruptionBudget") if workload in manifests.selected(item["spec"]["selector"]["matchLabels"])]:
            yield f"{title(workload)}: no PodDisruptionBudget selects it"


def replicas(manifests, workload):
    """The fewest pods that it has."""
    for item in manifests.of("HorizontalPodAutoscaler"):
        if item["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
            return item["spec"]["minReplicas"]
    return workload["spec"].get("replicas", 1)


def autoscalers(manifests, adapted):
    """`adapted`: names of the metrics that the adapter gives."""
    for item in manifests.of("HorizontalPodAutoscaler"):
        spec = item["spec"]
        target = manifests.find(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        if not target:
            yield f"{title(item)}: there is no {spec['scaleTargetRef']}"
        elif "replicas" in target["spec"]:
            yield f"{title(item)}: {title(target)} sets replicas, which every apply would go back to"
        if not 1 <= spec["minReplicas"] < spec["maxReplicas"]:
            yield f"{title(item)}: minReplicas = {spec['minReplicas']} is not below maxReplicas = {spec['maxReplicas']}"
        for metric in spec["metrics"]:
            name = metric["pods"]["metric"]["name"]
            if name not in adapted:
                yield f"{title(item)}: the adapter gives no metric {name}: {sorted(adapted)}"


def network_policies(manifests):
    guarded = []
    for item in manifests.of("NetworkPolicy"):
        spec = item["spec"]
        found = manifests.selected(spec["podSelector"].get("matchLabels", {}))
        if not found:
            yield f"{title(item)}: its podSelector matches no pods"
        guarded += found
        if sorted(spec["policyTypes"]) != ["Egress", "Ingress"]:
            yield f"{title(item)}: policyTypes must be Ingress and Egress: the other one would be open"
        for rule in spec.get("ingress", []):
            yield from rule_ports(item, rule, found)
            yield from rule_peers(manifests, item, rule.get("from", []))
        for rule in spec.get("egress", []):
            peers = [peer for peer in rule.get("to", []) if "podSelector" in peer]
            for peer in peers:
                yield from rule_ports(item, rule, manifests.selected(peer["podSelector"]["matchLabels"]))
            yield from rule_peers(manifests, item, peers)
    for workload in manifests.workloads():
        if workload not in guarded:
            yield f"{title(workload)}: no NetworkPolicy selects it"


def rule_ports(item, rule, found):
    for port in rule.get("ports", []):
        for workload in found:
            if port["port"] not in ports(workload) and port["port"] not in ports(workload).values():
                yield f"{title(item)}: {title(workload)} has no port {port['port']}"


def rule_peers(manifests, item, peers):
    for peer in peers:
        labels = peer.get("podSelector", {}).get("matchLabels")
        if "podSelector" in peer and not manifests.selected(labels):
            yield f"{title(item)}: no pods have the labels {labels}"


def monitors(manifests):
    for item in manifests.of("ServiceMonitor"):
        labels = item["spec"]["selector"]["matchLabels"]
        found = [one for one in manifests.of("Service") if labels.items() <= one["metadata"].get("labels", {}).items()]
        if not found:
            yield f"{title(item)}: no Service has the labels {labels}"
        for end in item["spec"]["endpoints"]:
            for service in found:
                if end["port"] not in [port["name"] for port in service["spec"]["ports"]]:
                    yield f"{title(item)}: {title(service)} has no port {end['port']}"
    for item in manifests.of("PodMonitor"):
        # Its pods are in another kustomization: looked for where both are rendered.
        for workload in manifests.selected(item["spec"]["selector"]["matchLabels"]):
            for end in item["spec"]["podMetricsEndpoints"]:
                if end["port"] not in ports(workload):
                    yield f"{title(item)}: {title(workload)} has no port {end['port']}"


def problems(manifests, adapted):
    """Everything that is wrong between the objects, as sentences."""
    for check in (names, workloads, pods, services, disruption_budgets, network_policies, monitors):
        yield from check(manifests)
    yield from autoscalers(manifests, adapted)
