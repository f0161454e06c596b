"""A stand-in for Kubernetes: takes Jobs, and runs their container's command here, with their variables and no other."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.flows.toy import REPO
from tests.pools.hosts import power_off

Object = dict[str, Any]


@dataclass
class Pod:
    """What a Job has started."""

    job: Object
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()


@dataclass
class Cluster:
    """Nothing is pulled and nothing is mounted: volumes of a Pod are folders of its own, and their paths lead there."""

    base: Path
    secrets: Mapping[str, Mapping[str, str]]
    pods: list[Pod] = field(default_factory=list)

    @property
    def kubeconfig(self) -> Path:
        return self.base / "kubeconfig"

    def take(self, job: Object) -> Object:
        """Job as the API answers it; its Pod is on its way."""
        folder = self.base / f"pod-{len(self.pods)}"
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        environ = of_image(self.base, folder / "home") | self._environ(container)
        for mount in container["volumeMounts"]:
            path, own = mount["mountPath"], folder / mount["name"]
            own.mkdir(parents=True)
            inside = {name: value for name, value in environ.items() if value.startswith(f"{path}/")}
            environ |= {name: f"{own}{value.removeprefix(path)}" for name, value in inside.items()}
        with (folder / "said").open("wb") as log:
            argv = [*container["command"], *container["args"]]
            process = subprocess.Popen(
                argv, cwd=folder / "home", env=environ, stdout=log, stderr=log, start_new_session=True
            )
        self.pods.append(Pod(job, folder, process))
        return job | {"metadata": job["metadata"] | {"name": folder.name, "uid": folder.name}}

    def _environ(self, container: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.secrets.get(source["secretRef"]["name"], {})
        for one in container["env"]:
            reference = one.get("valueFrom", {}).get("secretKeyRef")
            found[one["name"]] = self.secrets[reference["name"]][reference["key"]] if reference else one["value"]
        return found


def of_image(base: Path, home: Path) -> dict[str, str]:
    """Variables that the image itself brings, and a home that is empty."""
    entry = base / "bin" / "preflow-worker"
    if not entry.exists():
        entry.parent.mkdir()
        entry.symlink_to(REPO / "deploy" / "worker.sh")
    home.mkdir(parents=True)
    return {"PATH": f"{entry.parent}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(home)}


@contextmanager
def cluster(base: Path, secrets: Mapping[str, Mapping[str, str]]) -> Iterator[Cluster]:
    """Until this is over; then it is gone with all its Pods."""
    made = Cluster(base, secrets)

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/apis/batch/v1/namespaces/preflow/jobs", self.path
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(made.take(job)).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            return

    base.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    one = {"name": "toy"}
    config = {
        "clusters": [one | {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [one | {"user": {}}],
        "contexts": [one | {"context": {"cluster": "toy", "user": "toy"}}],
        "current-context": "toy",
    }
    made.kubeconfig.write_text(json.dumps(config))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        for pod in made.pods:
            power_off(pod.process)
        server.server_close()


def variables(made: Cluster) -> dict[str, str]:
    """Of the worker, so that it finds the cluster; who looks on, of Prefect's, has no stand-in."""
    return {"KUBECONFIG": str(made.kubeconfig), "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_ENABLED": "false"}
