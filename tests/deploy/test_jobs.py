"""deploy/jobs: a worker that starts Jobs may do that, in its namespace, and nothing else."""

import pytest

from flows.pools.templates import template
from tests.deploy.manifests import WORKERS, read, schema

(KUSTOMIZATION,) = read("jobs/kustomization.yaml")
OBJECTS = [found for path in KUSTOMIZATION["resources"] for found in read(f"jobs/{path}")]
KINDS = {found["kind"]: found for found in OBJECTS}
POD = KINDS["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.kubernetes
@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_kubernetes_schema_takes_every_object(version: str) -> None:
    for found in OBJECTS:
        schema().validate(found, version, strict=True)


def test_it_may_start_and_end_jobs_and_look_on() -> None:
    assert set(KINDS) == {"ServiceAccount", "Role", "RoleBinding", "Deployment"}
    name = KINDS["ServiceAccount"]["metadata"]["name"]
    assert POD["serviceAccountName"] == name
    assert KINDS["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": name}]
    assert KINDS["RoleBinding"]["roleRef"]["name"] == KINDS["Role"]["metadata"]["name"]
    may = {(what, verb) for rule in KINDS["Role"]["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    assert {what for what, verb in may if verb not in ("get", "list", "watch")} == {"jobs"}
    assert {("jobs", "create"), ("jobs", "delete"), ("pods", "watch")} <= may


def test_it_is_a_worker_like_the_others_without_their_stages() -> None:
    (main,), theirs = POD["containers"], WORKERS["cpu-worker"]
    same = ("image", "command", "securityContext")
    assert [main[name] for name in same] == [theirs.main[name] for name in same]
    assert {one["name"]: one for one in theirs.main["env"]}.items() <= {one["name"]: one for one in main["env"]}.items()
    labels = KINDS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["servers"] == theirs.labels["servers"], "the network policy lets it in to Prefect"
    namespace = {one["name"]: one.get("value") for one in main["env"]}
    assert namespace["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"] == KUSTOMIZATION["namespace"]


def test_its_pool_has_the_job_variables_that_it_sets() -> None:
    pytest.importorskip("prefect_kubernetes", reason="absent; pip install -e '.[kubernetes]' -c constraints.txt")
    (main,) = POD["containers"]
    words = main["args"]
    assert words[:6] == ["preflow", "worker", "--pool", "jobs", "--type", "kubernetes"]
    assert words[6::2] == ["--job-variable"]
    made = template("kubernetes", None, words[7::2])
    assert made["variables"]["properties"]["gpus"]["default"] == 1
    assert made["variables"]["properties"]["namespace"]["default"] == KUSTOMIZATION["namespace"]
