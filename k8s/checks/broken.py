"""Breaks good manifests in one place at a time: each must be found. So a check
that looks at nothing does not pass. Changes copies, no file."""

import copy

# (what is broken, kind, name, path to it, the wrong value; `None` takes it away).
CONTAINER = ("spec", "template", "spec", "containers", 0)
SERVER = ("Deployment", "inference-service")
FAULTS = [
    ("a Service that selects nothing", "Service", "inference-service", ("spec", "selector"), {"app": "other"}),
    ("a Service's port that no pod has", "Service", "inference-service", ("spec", "ports", 0, "targetPort"), "grcp"),
    ("a port that is none", "Service", "inference-service", ("spec", "ports", 0, "port"), 500510),
    ("a name that is none", "Service", "inference-service", ("metadata", "name"), "Inference_BAD"),
    ("pods that their selector misses", *SERVER, ("spec", "template", "metadata", "labels"), {"app": "other"}),
    ("no ServiceAccount", *SERVER, ("spec", "template", "spec", "serviceAccountName"), "other"),
    ("too little time to end", *SERVER, ("spec", "template", "spec", "terminationGracePeriodSeconds"), 15),
    ("a mount without a volume", *SERVER, (*CONTAINER, "volumeMounts", 0, "name"), "other"),
    ("a ConfigMap that is not there", *SERVER, ("spec", "template", "spec", "volumes", 0, "configMap", "name"), "other"),
    ("a host's folder", *SERVER, ("spec", "template", "spec", "volumes", 0), {"name": "config", "hostPath": {"path": "/"}}),
    ("root", *SERVER, (*CONTAINER, "securityContext", "runAsNonRoot"), None),
    ("a root file system to write to", *SERVER, (*CONTAINER, "securityContext", "readOnlyRootFilesystem"), False),
    ("capabilities", *SERVER, (*CONTAINER, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}),
    ("a gRPC probe", *SERVER, (*CONTAINER, "readinessProbe"), {"grpc": {"port": 50051}}),
    ("a probe of no port", *SERVER, (*CONTAINER, "livenessProbe", "httpGet", "port"), "http"),
    ("no probe", *SERVER, (*CONTAINER, "livenessProbe"), None),
    ("memory below the budget", *SERVER, (*CONTAINER, "resources"), {
        "requests": {"cpu": "1", "memory": "256Mi", "ephemeral-storage": "1Mi"},
        "limits": {"cpu": "4", "memory": "256Mi", "ephemeral-storage": "1Mi"}}),
    ("memory that is not asked for", *SERVER, (*CONTAINER, "resources", "requests", "memory"), "64Mi"),
    ("a processor that no worker uses", *SERVER, (*CONTAINER, "resources", "limits", "cpu"), "8"),
    ("a configuration that is not in the ConfigMap", *SERVER, (*CONTAINER, "args", 1), "/etc/flatframe/config/other.toml"),
    ("a Secret that nothing makes", *SERVER, ("spec", "template", "spec", "volumes", 1, "secret", "secretName"), "other"),
    ("replicas beside an autoscaler", *SERVER, ("spec", "replicas"), 3),
    ("fewest above most", "HorizontalPodAutoscaler", "inference-service", ("spec", "minReplicas"), 13),
    ("a metric that nobody gives", "HorizontalPodAutoscaler", "inference-service",
     ("spec", "metrics", 0, "pods", "metric", "name"), "busy"),
    ("an autoscaler of nothing", "HorizontalPodAutoscaler", "inference-service", ("spec", "scaleTargetRef", "name"), "other"),
    ("a disruption budget of nothing", "PodDisruptionBudget", "inference-service",
     ("spec", "selector", "matchLabels"), {"app": "other"}),
    ("a disruption budget that forbids all", "PodDisruptionBudget", "inference-service", ("spec", "maxUnavailable"), 0),
    ("a policy of nothing", "NetworkPolicy", "inference-service", ("spec", "podSelector", "matchLabels"), {"app": "other"}),
    ("a policy for no port", "NetworkPolicy", "inference-service", ("spec", "ingress", 0, "ports", 0, "port"), "grcp"),
    ("a policy that leaves egress open", "NetworkPolicy", "inference-service", ("spec", "policyTypes"), ["Ingress"]),
    ("a policy for no peer", "NetworkPolicy", "nats", ("spec", "ingress", 0, "from", 0, "podSelector", "matchLabels"), {"app": "x"}),
    ("a ServiceMonitor of nothing", "ServiceMonitor", "inference-service", ("spec", "selector", "matchLabels"), {"app": "x"}),
    ("a ServiceMonitor of no port", "ServiceMonitor", "inference-service", ("spec", "endpoints", 0, "port"), "http"),
    ("a PodMonitor of no port", "PodMonitor", "ingest-service", ("spec", "podMetricsEndpoints", 0, "port"), "http"),
    ("a certificate without an issuer", "Certificate", "inference-service", ("spec", "issuerRef", "name"), "other"),
    ("a CA that nobody makes", "Issuer", "flatframe-ca", ("spec", "ca", "secretName"), "other"),
    ("a certificate without the name of cameras' Service", "Certificate", "inference-service", ("spec", "dnsNames"), ["inference-service"]),
    ("a certificate that is renewed too late", "Certificate", "inference-service", ("spec", "renewBefore"), "24h"),
    ("a camera that no certificate names", "Certificate", "ingest-service", ("spec", "uris"), ["spiffe://flatframe/camera/other"]),
    ("a disk smaller than what NATS keeps", "StatefulSet", "nats",
     ("spec", "volumeClaimTemplates", 0, "spec", "resources", "requests", "storage"), "1Gi"),
]
# (what is broken, file of a ConfigMap, its text, the wrong text).
CONFIGURATIONS = [
    ("an unknown key", "inference.toml", "[workers]", "[wokrers]"),
    ("another port", "inference.toml", "0.0.0.0:9464", "0.0.0.0:9999"),
    ("no client CA", "inference.toml", 'client_ca = "/etc/flatframe/tls/ca.crt"', ""),
    ("a certificate that is not there", "inference.toml", "tls/tls.crt", "tls/other.crt"),
    ("results that one NATS server alone keeps", "inference.toml", "copies = 3", "copies = 1"),
    ("a bus that is not there", "inference.toml", "nats://nats:4222", "nats://other:4222"),
    ("no encryption", "pi-entrance.toml", "https://", "http://"),
    ("a server that is not there", "pi-entrance.toml", "inference-service-cameras", "other"),
]


def faults(manifests):
    """Pairs of what is broken and manifests with it."""
    for what, kind, name, path, value in FAULTS:
        copied = copy.deepcopy(manifests)
        place = copied.find(kind, name)
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        yield what, copied
    for what, file, text, wrong in CONFIGURATIONS:
        copied = copy.deepcopy(manifests)
        data = next(item["data"] for item in copied.of("ConfigMap") if file in item.get("data", {}))
        if text not in data[file]:
            raise SystemExit(f"k8s/check: {file} has no {text!r} to break")
        data[file] = data[file].replace(text, wrong)
        yield what, copied
