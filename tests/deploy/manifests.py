"""deploy/kubernetes as a program reads it: the objects of kustomization.yaml, and the pods in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.composed import DEPLOY

Object = dict[str, Any]


def documents(text: str) -> list[Object]:
    """By the rules of YAML 1.1, which are kubectl's."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    return list(yaml.load_all(text))


def read(path: str) -> list[Object]:
    """Documents of a file of deploy/."""
    return documents((DEPLOY / path).read_text(encoding="utf-8"))


(KUSTOMIZATION,) = read("kustomization.yaml")
OBJECTS = [found for path in KUSTOMIZATION["resources"] for found in read(path)]


def schema() -> Any:
    """Validates objects as the API of a version would; the test is skipped where it is not installed."""
    reason = "absent; pip install -e '.[kubernetes-validate]' -c constraints.txt"
    return pytest.importorskip("kubernetes_validate", reason=reason)


@dataclass(frozen=True)
class Workload:
    """What runs pods."""

    kind: str
    name: str
    spec: Object
    labels: dict[str, str]
    """Of its pods."""
    pod: Object
    """Their spec."""

    @property
    def main(self) -> Object:
        """The one container that is not there to prepare it."""
        (container,) = self.pod["containers"]
        found: Object = container
        return found

    @property
    def containers(self) -> list[Object]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]


def of_kind(*kinds: str) -> Iterator[Object]:
    return (found for found in OBJECTS if found["kind"] in kinds)


def _workload(found: Object) -> Workload:
    template = found["spec"]["template"]
    labels = template["metadata"]["labels"]
    return Workload(found["kind"], found["metadata"]["name"], found["spec"], labels, template["spec"])


WORKLOADS = {one.name: one for one in map(_workload, of_kind("Deployment", "StatefulSet", "Job"))}
WORKERS = {name: one for name, one in WORKLOADS.items() if name.endswith("-worker")}
