"""That the certificates which are asked of cert-manager are those that the pods
and the cameras need. Signs and reads none."""

from manifests import title


def hours(duration):
    return int(duration.removesuffix("h"))


def problems(manifests):
    """What is wrong with the certificates, as sentences."""
    certificates = manifests.of("Certificate")
    if not certificates:
        return
    for item in certificates:
        spec = item["spec"]
        if not manifests.find("Issuer", spec["issuerRef"]["name"]):
            yield f"{title(item)}: there is no Issuer {spec['issuerRef']['name']}"
        if not 0 < hours(spec["renewBefore"]) < hours(spec["duration"]):
            yield f"{title(item)}: renewBefore = {spec['renewBefore']} is not below duration = {spec['duration']}"
        if not spec.get("isCA") and hours(spec["renewBefore"]) <= 7 * 24:
            yield f"{title(item)}: renewBefore = {spec['renewBefore']}; the alert FlatframeCertificateExpires comes at 7 days"
    for issuer in manifests.of("Issuer"):
        wanted = issuer["spec"].get("ca", {}).get("secretName")
        if wanted and not [c for c in certificates if c["spec"].get("isCA") and c["spec"]["secretName"] == wanted]:
            yield f"{title(issuer)}: no CA's Certificate writes the Secret {wanted}"
    server = next((c for c in certificates if c["spec"]["secretName"] == "inference-service-tls"), None)
    if not server or "server auth" not in server["spec"]["usages"]:
        yield "no Certificate for 'server auth' writes the Secret inference-service-tls"
        return
    for service in manifests.of("Service"):
        if not [port for port in service["spec"]["ports"] if port["name"] == "grpc"]:
            continue
        name, space = service["metadata"]["name"], service["metadata"]["namespace"]
        for known in (name, f"{name}.{space}", f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local"):
            if known not in server["spec"]["dnsNames"]:
                yield f"{title(server)}: dnsNames lacks {known}, a name of {title(service)}"


def cameras(manifests, secret):
    """Ids of the cameras that the certificate in `secret` may send as."""
    return {
        uri.rsplit("/camera/", 1)[1]
        for item in manifests.of("Certificate")
        if item["spec"]["secretName"] == secret
        for uri in item["spec"].get("uris", [])
        if uri.startswith("spiffe://") and "/camera/" in uri
    }


def secrets(manifests):
    """Names of the Secrets that certificates are written to."""
    return {item["spec"]["secretName"] for item in manifests.of("Certificate")}
