"""What Prefect's own workers would submit for a stage, from our templates, as their own classes make it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.pools.orders import BEAT, GRACE
from flows.pools.templates import namespace_of, refuse_unfit, template
from flows.processes import SAVING
from tasks.config import ConfigError
from tests.deploy.composed import SECRETS, compose
from tests.deploy.manifests import WORKERS, Object

ABSENT = "absent; pip install -e '.[{}]' -c constraints.txt"
ID = UUID(int=1)
PASSWORD = "nobody:open sesame"
WORKERS_OWN = {"api.url": "http://prefect:4200/api", "api.auth_string": PASSWORD, "home": "/its/own"}
"""Settings of Prefect that a worker has, and hands on by value unless it is told not to."""
GPUS = [{"driver": "nvidia", "count": -1, "capabilities": [["gpu"]]}]


def configured(kind: str, assigned: list[str], values: Object) -> Any:
    """The configuration of a flow run, as a worker of this type has it before it submits it."""
    worker = pytest.importorskip(f"prefect_{kind}.worker", reason=ABSENT.format(kind))
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings.context import temporary_settings

    made = getattr(worker, f"{kind.capitalize()}WorkerJobConfiguration")
    told = asyncio.run(made.from_template_and_values(template(kind, None, assigned), values, client=object()))
    with temporary_settings(WORKERS_OWN | {"flows.heartbeat_frequency": BEAT}):
        told.prepare_for_flow_run(FlowRun(id=ID, name="20260101-000000-0000/sft-1", flow_id=ID))
    return told


def job(*assigned: str, **values: Any) -> Object:
    found: Object = configured("kubernetes", [*assigned], values).job_manifest
    return found


def test_a_pod_is_that_of_the_gpu_worker_and_does_one_stage() -> None:
    made = job("image=registry.example.org/worker:1", "gpus=2", cpu="8", memory="64Gi", disk="100Gi")
    assert made["metadata"]["namespace"] == "preflow"
    assert made["metadata"]["generateName"] == "20260101-000000-0000-sft-1-"
    assert made["spec"]["backoffLimit"] == 0
    # Prefect calls a Job with a failed Pod crashed, and Kubernetes one that is being ended failed, unless told this.
    assert made["spec"]["podReplacementPolicy"] == "Failed"
    assert made["spec"]["template"]["metadata"]["labels"]["servers"] == "client"
    pod, theirs = dict(made["spec"]["template"]["spec"]), dict(WORKERS["gpu-worker"].pod)
    assert (pod.pop("restartPolicy"), pod.pop("parallelism"), pod.pop("completions")) == ("Never", 1, 1)
    (main,), (worker,) = pod.pop("containers"), theirs.pop("containers")
    assert pod == theirs
    assert pod["terminationGracePeriodSeconds"] >= GRACE
    same = ("command", "securityContext", "volumeMounts")
    assert [main[name] for name in same] == [worker[name] for name in same]
    assert (main["image"], main["args"]) == ("registry.example.org/worker:1", ["python", "-m", "prefect.engine"])
    assert main["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "100Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": 2},
    }


def test_a_pod_has_passwords_from_secrets_alone() -> None:
    made = job()
    (main,) = made["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value", one.get("valueFrom")) for one in main["env"]}
    assert len(told) == len(main["env"])
    theirs = {one["name"]: one.get("value", one.get("valueFrom")) for one in WORKERS["gpu-worker"].main["env"]}
    assert {name: told.get(name) for name in theirs} == theirs
    assert told["PREFLOW_CHECKOUT"] == told["PREFLOW_CLONE"] == told["PREFLOW_HOME"].removesuffix("/.preflow")
    assert told["PREFECT__FLOW_RUN_ID"] == str(ID) and told["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(BEAT)
    assert main["envFrom"] == [{"secretRef": {"name": "preflow-stage", "optional": True}}]
    assert not {"PREFECT_HOME", "PREFLOW_SLOTS"} & set(told) and "sesame" not in str(made)


@pytest.mark.kubernetes
@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_kubernetes_schema_takes_a_job(version: str) -> None:
    schema = pytest.importorskip("kubernetes_validate", reason=ABSENT.format("kubernetes-validate"))
    made = job("gpus=1", "cpu=4")
    for foreign in ("parallelism", "completions"):  # which Prefect wants where Kubernetes knows no such thing
        del made["spec"]["template"]["spec"][foreign]
    schema.validate(made, version, strict=True)


def test_a_container_is_what_its_host_is_told() -> None:
    requests = "device_requests=[{driver: nvidia, count: -1, capabilities: [[gpu]]}]"
    made = configured("docker", [requests, "remote=/mnt/preflow"], {"memory": "64g"})
    composed = compose(SECRETS)["services"]["gpu-worker"]
    assert made.image == composed["image"]
    assert made.command == "python -m prefect.engine"  # of the image's entrypoint, preflow-worker
    assert (made.networks, made.mem_limit, made.auto_remove) == (["preflow_default"], "64g", True)
    assert made.volumes == ["/mnt/preflow:/remote", "/etc/preflow/stage.env:/run/secrets/preflow:ro"]
    told = {name: made.env.pop(name) for name in list(made.env) if name.startswith("PREFLOW_")}
    assert told == {
        "PREFLOW_SECRETS": "/run/secrets/preflow",
        "PREFLOW_CLONE": "/srv/preflow",
        "PREFLOW_CHECKOUT": "/srv/preflow",
        "PREFLOW_HOME": "/srv/preflow/.preflow",
        "PREFLOW_SAVING": f"{SAVING:.0f}.0",
    }
    assert made.env["PREFECT_API_URL"] == composed["environment"]["PREFECT_API_URL"]
    assert made.env["PREFECT__FLOW_RUN_ID"] == str(ID) and made.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(BEAT)
    assert "PREFECT_HOME" not in made.env and "sesame" not in str(made.model_dump())


def test_docker_takes_what_a_container_is_to_be_made_with() -> None:
    """All of it, and GPUs as Docker's API has them: its client refuses what it does not know."""
    containers = pytest.importorskip("docker.models.containers", reason=ABSENT.format("docker"))
    made = configured("docker", [], {"device_requests": GPUS})
    told = containers._create_container_args({"image": made.image, "version": "1.47"} | made.container_create_kwargs)
    host = told["host_config"]
    assert (host["Init"], host["ShmSize"]) == (True, 2**30)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    (request,) = host["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", -1, [["gpu"]])


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_template_of_ones_own_takes_the_place_of_ours(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(f"prefect_{kind}", reason=ABSENT.format(kind))
    own = tmp_path / "own.yaml"
    own.write_text("variables: {properties: {size: {type: integer, default: 1}}}\njob_configuration: {}\n")
    assert template(kind, own, ["size=3"])["variables"]["properties"]["size"]["default"] == 3
    with pytest.raises(ConfigError, match=r"own\.yaml has no job variable image; it has size"):
        template(kind, own, ["image=x"])
    own.write_text("job_manifest: {}\n")
    with pytest.raises(ConfigError, match="expected a base job template of Prefect"):
        template(kind, own, [])


@pytest.mark.parametrize("properties", ["[a, b]", "null", "{size: 3}"])
def test_a_template_whose_variables_are_none_says_what_is_expected(properties: str, tmp_path: Path) -> None:
    pytest.importorskip("prefect_kubernetes", reason=ABSENT.format("kubernetes"))
    own = tmp_path / "own.yaml"
    own.write_text(f"variables: {{properties: {properties}}}\njob_configuration: {{}}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: expected `variables: \{properties: \{NAME: "):
        template("kubernetes", own, ["size=3"])


@pytest.mark.parametrize(
    ("kind", "name", "good", "bad"),
    [
        ("kubernetes", "cpu", [4, "4", "500m", "0.5"], ["many", "", 0, None]),
        ("kubernetes", "memory", ["128Gi", "1.5G"], ["lots", "", "32 Gi", "32g"]),
        ("kubernetes", "disk", ["50Gi"], ["50GB"]),
        ("kubernetes", "image", ["a"], [""]),
        ("docker", "memory", ["64g", "512m", "1024"], ["lots", "", "64Gi"]),
        ("docker", "image", ["a"], [""]),
    ],
)
def test_values_that_its_host_would_refuse_are_refused_before(
    kind: str, name: str, good: list[Any], bad: list[Any]
) -> None:
    pytest.importorskip(f"prefect_{kind}", reason=ABSENT.format(kind))
    ours = template(kind, None, [])
    for value in good:
        refuse_unfit({name: value}, ours, "pool")
    for value in bad:
        with pytest.raises(ConfigError, match=f"pool: job variable {name}: .+; it is: "):
            refuse_unfit({name: value}, ours, "pool")


def test_processors_are_a_number_or_a_text() -> None:
    asked = [job("cpu=6"), job(cpu=6), job("cpu=500m"), job(cpu="500m")]
    (a, b, c, d) = (one["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] for one in asked)
    assert (a, b, c, d) == (6, 6, "500m", "500m")


ASKED = """
import sys
from flows.pools.templates import template
for name in ("saving", "grace"):
    print(template("kubernetes", None, sys.argv[1:])["variables"]["properties"][name]["default"])
"""


@pytest.mark.parametrize(
    ("saving", "assigned", "found"),
    [("", [], "30 300"), ("120", [], "120 480"), ("10", [], "10 300"), ("", ["saving=60", "grace=240"], "60 240")],
)
def test_the_time_to_save_is_that_of_who_serves(saving: str, assigned: list[str], found: str) -> None:
    pytest.importorskip("prefect_kubernetes", reason=ABSENT.format("kubernetes"))
    argv = [sys.executable, "-c", ASKED, *assigned]
    told = subprocess.check_output(argv, env=os.environ | {"PREFLOW_SAVING": saving}, text=True)
    assert told.split() == found.split()


def test_a_grace_in_which_nothing_could_be_sent_is_refused() -> None:
    with pytest.raises(ConfigError, match="grace is 300 s, and to save and to send takes 400: 4 times saving"):
        job("saving=100")
    with pytest.raises(ConfigError, match="grace is 300 s"):
        refuse_unfit({"saving": 100}, template("kubernetes", None, []), "pool")
    pod = job(saving=100, grace=400)["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 400
    assert {"name": "PREFLOW_SAVING", "value": "100.0"} in pod["containers"][0]["env"]


def test_a_namespace_is_a_variable_or_the_templates_own(tmp_path: Path) -> None:
    pytest.importorskip("prefect_kubernetes", reason=ABSENT.format("kubernetes"))
    assert namespace_of(template("kubernetes", None, ["namespace=team"])) == "team"
    own = tmp_path / "own.yaml"
    own.write_text("variables: {}\njob_configuration: {namespace: theirs}\n")
    assert namespace_of(template("kubernetes", own, [])) == "theirs"
    own.write_text("variables: {}\njob_configuration: {}\n")
    assert namespace_of(template("kubernetes", own, [])) == ""
