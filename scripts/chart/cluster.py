"""A Kubernetes API server that only remembers, so that Helm can install a chart without a cluster.

It names the resource types the chart uses, has nothing of anything, takes whatever is sent and keeps it. Knows nothing
about the chart.
"""

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

VERSION = "1.32"

TYPES = {
    "v1": {"configmaps": "ConfigMap", "secrets": "Secret", "services": "Service", "pods": "Pod"},
    "apps/v1": {"deployments": "Deployment"},
    "batch/v1": {"jobs": "Job"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
}
"""Group and version -> plural -> kind."""

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Cluster:
    """What was sent to the server: `releases` are Helm's own records, each with `manifest` and `hooks`."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.releases: list[dict[str, Any]] = []

    def create(self, collection: str, body: bytes) -> dict[str, Any]:
        found = self._release(body) if body.startswith(b"k8s\0") else json.loads(body)
        found["metadata"] |= {"uid": "00000000-0000-0000-0000-000000000000", "resourceVersion": "1"}
        self.objects[f"{collection}/{found['metadata']['name']}"] = found
        return found

    def _release(self, body: bytes) -> dict[str, Any]:
        """Helm keeps a release in a Secret, sent as protobuf: its name, and base64 of gzipped JSON."""
        name = re.search(rb"sh\.helm\.release\.v1\.[\w.-]+", body)
        packed = re.search(rb"H4sI[A-Za-z0-9+/]+=*", body)
        if name is None or packed is None:
            raise ValueError("a protobuf body that is no Helm release")
        self.releases.append(json.loads(gzip.decompress(base64.b64decode(packed[0]))))
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name[0].decode()}}


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/version":
        major, minor = VERSION.split(".")
        return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [{"groupVersion": group, "version": group.split("/")[1]} for group in TYPES if "/" in group]
        groups = [
            {"name": one["groupVersion"].split("/")[0], "versions": [one], "preferredVersion": one} for one in versions
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    group = path.removeprefix("/apis/").removeprefix("/api/")
    if group in TYPES:
        resources = [
            {"name": plural, "singularName": "", "kind": kind, "namespaced": True, "verbs": VERBS}
            for plural, kind in TYPES[group].items()
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}
    return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        found = _discovery(path) or self.cluster.objects.get(path)
        if found is None and path.rpartition("/")[2] in {plural for kinds in TYPES.values() for plural in kinds}:
            found = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}
        if found is None:
            self._answer(
                404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            )
        else:
            self._answer(200, found)

    def do_POST(self) -> None:
        self._answer(201, self.cluster.create(self.path.partition("?")[0], self._body()))

    def do_PUT(self) -> None:
        collection = self.path.partition("?")[0].rpartition("/")[0]
        self._answer(200, self.cluster.create(collection, self._body()))

    do_PATCH = do_PUT  # noqa: N815 (the name that http.server calls)

    def do_DELETE(self) -> None:
        self._body()
        self.cluster.objects.pop(self.path.partition("?")[0], None)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[tuple[Cluster, str]]:
    """A fresh cluster on a free port of loopback, and the kubeconfig that reaches it."""
    cluster = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": cluster}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "none", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "nobody"}}],
        "current-context": "none",
    }
    try:
        yield cluster, yaml.safe_dump(kubeconfig)
    finally:
        server.shutdown()
        server.server_close()
