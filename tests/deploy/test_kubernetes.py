"""deploy/kubernetes is what deploy/compose.yaml is, and keeps the laws that no schema knows."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flows.processes import SAVING
from tests.deploy.composed import DEPLOY, REPO, SECRETS, compose
from tests.deploy.manifests import (
    KUSTOMIZATION,
    OBJECTS,
    WORKERS,
    WORKLOADS,
    Object,
    Workload,
    documents,
    of_kind,
    schema,
)
from tests.deploy.test_compose import EXAMPLE

# Every variable has its own name as its value, so that one can see where it went.
NAMED = compose({name: f"the {name}" for name in (*SECRETS, "PREFLOW_REPOSITORY")})["services"]
ALL = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
EACH_WORKER = pytest.mark.parametrize("worker", WORKERS.values(), ids=WORKERS)


@pytest.mark.kubernetes
@pytest.mark.parametrize("version", ["1.32", "1.37"])
def test_kubernetes_schema_takes_every_object(version: str) -> None:
    for found in OBJECTS:
        schema().validate(found, version, strict=True)
    with pytest.raises(schema().ValidationError):
        schema().validate(OBJECTS[0] | {"unheard": "of"}, version, strict=True)


def test_every_file_is_applied() -> None:
    files = {path.relative_to(DEPLOY).as_posix() for path in (DEPLOY / "kubernetes").iterdir()}
    assert files == set(KUSTOMIZATION["resources"])
    assert {found["apiVersion"].count("beta") for found in OBJECTS} == {0}
    assert not list(of_kind("Secret"))  # it is made of deploy/.env


def service_of(workload: Workload) -> Object:
    """The service of compose.yaml that it is; of workers there are as many as pools."""
    theirs = dict.fromkeys(WORKERS, "gpu-worker") | {"runner": "worker"}
    found: Object = NAMED[theirs.get(workload.name, workload.name)]
    return found


@ALL
def test_it_runs_what_compose_runs(workload: Workload) -> None:
    main, service = workload.main, service_of(workload)
    told = [*main.get("command", []), *main.get("args", [])]
    theirs = [*service.get("entrypoint", []), *service.get("command", [])]
    if workload.name in WORKERS:
        assert theirs.pop() == "gpu" and told.pop() == workload.name.removesuffix("-worker")
    if workload.name == "runner":  # Compose starts one for a run; this one stays, for schedules and for runs by hand
        assert (theirs.pop(), told.pop(), told.pop()) == ("run", "serve", "schedule")
    assert told == theirs
    assert main["image"] == NAMED.get(workload.name, NAMED["worker"])["image"]
    assert all(one["image"] == NAMED["postgres"]["image"] for one in workload.pod.get("initContainers", []))


def test_images_have_the_version_of_the_project() -> None:
    version = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    ours = {service["image"] for service in NAMED.values() if "build" in service}
    assert ours == {f"preflow-{name}:{version}" for name in ("servers", "worker", "gpu-worker")}


@ALL
def test_it_has_the_variables_of_compose_and_passwords_from_the_secret(workload: Workload) -> None:
    # Which GPU, the device plugin says; where the things of this container lie in its volume, the manifest does.
    of_worker = {"CUDA_VISIBLE_DEVICES", "PREFLOW_CLONE"}
    own = dict.fromkeys(WORKERS, of_worker) | {"postgres": {"PGDATA"}, "runner": {"PREFLOW_CLONE"}}
    theirs = dict(service_of(workload)["environment"])
    ours = {one["name"]: from_secret(one) for one in workload.main["env"]}
    for name in own.get(workload.name, ()):
        assert ours.pop(name, None) != theirs.pop(name, None)
    assert ours == theirs
    assert not [one for init in workload.pod.get("initContainers", []) for one in init.get("env", [])]


@EACH_WORKER
def test_a_worker_has_no_password_of_mlflow(worker: Workload) -> None:
    """Runs alone talk to MLflow: a host that does stages for them could read and change all that it keeps."""
    assert not [one["name"] for one in worker.main["env"] if one["name"].startswith("MLFLOW")]


def from_secret(variable: Object) -> str:
    """A value as NAMED has it."""
    if "value" in variable:
        assert not re.search("PASSWORD|AUTH_STRING|SECRET", variable["name"]), variable
        return str(variable["value"])
    where = variable["valueFrom"]["secretKeyRef"]
    assert where["name"] == "preflow" and where["key"] in EXAMPLE
    return f"the {where['key']}"


@ALL
def test_what_it_mounts_is_there(workload: Workload) -> None:
    claims = {found["metadata"]["name"] for found in of_kind("PersistentVolumeClaim")}
    maps = {one["name"]: one["files"] for one in KUSTOMIZATION["configMapGenerator"]}
    volumes = {one["name"]: one for one in workload.pod.get("volumes", [])}
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
        elif "configMap" in volume:
            assert all((DEPLOY / file).is_file() for file in maps[volume["configMap"]["name"]])
        else:
            assert "emptyDir" in volume, "a path of the host, or a kind that nobody has looked at"
    known = set(volumes) | {one["metadata"]["name"] for one in workload.spec.get("volumeClaimTemplates", [])}
    mounts = {one["mountPath"]: one["name"] for one in workload.main.get("volumeMounts", [])}
    assert known == set(mounts.values())
    theirs = {mount.split(":")[1].removesuffix("/auth.ini") for mount in service_of(workload).get("volumes", [])}
    assert theirs == set(mounts) - {"/dev/shm"}


@ALL
def test_its_pod_may_do_little_and_says_what_it_needs(workload: Workload) -> None:
    """The rules of the standard `restricted`, to which the namespace holds all pods, and a few more."""
    pod, may = workload.pod, workload.pod["securityContext"]
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)
    assert (may["runAsNonRoot"], may["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    user = re.search(r"useradd .*--uid (\d+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    assert user and may["runAsUser"] == (999 if workload.name == "postgres" else int(user[1]))
    for container in workload.containers:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        needs = container["resources"]
        assert {"cpu", "memory"} <= set(needs["requests"]) and "memory" in needs["limits"]
        assert not [port for port in container.get("ports", []) if "hostPort" in port]


def test_upgrades_are_tried_once() -> None:
    jobs = {name: one for name, one in WORKLOADS.items() if one.kind == "Job"}
    assert set(jobs) == {"mlflow-upgrade", "prefect-upgrade"}
    assert {(one.spec["backoffLimit"], one.pod["restartPolicy"]) for one in jobs.values()} == {(0, "Never")}


def test_runs_begin_where_mlflow_is_reached_and_on_a_disk_that_outlives_the_pod() -> None:
    """Else the registry, the champion and all curves would be a file in a Pod, gone with it."""
    runner = WORKLOADS["runner"]
    assert [name for name, one in WORKLOADS.items() if "mlflow" in addressed(one)] == ["runner"]
    work = {one["name"]: one for one in runner.pod["volumes"]}["work"]
    assert "persistentVolumeClaim" in work
    assert (runner.spec["replicas"], runner.spec["strategy"]) == (1, {"type": "Recreate"})
    page = (DEPLOY / "README.md").read_text(encoding="utf-8")
    begun = re.findall(r"exec deployment/(\S+) -- preflow-worker preflow run", page)
    assert begun and set(begun) == {"runner"}


@EACH_WORKER
def test_a_worker_has_the_time_to_save_twice(worker: Workload) -> None:
    composed = seconds(NAMED["gpu-worker"]["stop_grace_period"])
    assert worker.pod["terminationGracePeriodSeconds"] == composed >= 2 * SAVING
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(worker.main)


def seconds(period: str) -> int:
    """Of a period as Compose writes it."""
    return int(period[:-1]) * {"s": 1, "m": 60}[period[-1]]


@pytest.mark.parametrize(
    ("name", "variable"), [("postgres", "PGDATA"), *((one, "PREFLOW_CLONE") for one in ("runner", *WORKERS))]
)
def test_what_must_be_its_own_is_a_folder_in_the_volume(name: str, variable: str) -> None:
    """A volume belongs to root, and a new disk is not empty: git trusts no such folder, initdb takes none."""
    main = WORKLOADS[name].main
    (path,) = [one["value"] for one in main["env"] if one["name"] == variable]
    assert Path(path).parent.as_posix() in {mount["mountPath"] for mount in main["volumeMounts"]}


def test_gpus_are_those_of_the_gpu_worker() -> None:
    limits = {name: worker.main["resources"]["limits"].get("nvidia.com/gpu") for name, worker in WORKERS.items()}
    assert limits == {"cpu-worker": None, "gpu-worker": 1}
    tolerated = {one["key"] for one in WORKERS["gpu-worker"].pod["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} == tolerated
    # An update never asks for one GPU more than there are workers.
    assert WORKERS["gpu-worker"].spec["strategy"]["rollingUpdate"]["maxSurge"] == 0
    (device,) = NAMED["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_servers_are_asked_whether_they_are_well() -> None:
    for name in ("mlflow", "prefect"):
        main = WORKLOADS[name].main
        (at,) = re.findall(r"urlopen\('http://127.0.0.1:(\d+)(\S+)'", NAMED[name]["healthcheck"]["test"][-1])
        for probe in ("startupProbe", "readinessProbe"):
            assert main[probe]["httpGet"] == {"path": at[1], "port": "http"}
        assert [(one["name"], str(one["containerPort"])) for one in main["ports"]] == [("http", at[0])]
        assert "livenessProbe" in main
        # Two of one version on one disk, or of two on one schema, there are never.
        assert (WORKLOADS[name].spec["replicas"], WORKLOADS[name].spec["strategy"]) == (1, {"type": "Recreate"})
    asked = WORKLOADS["postgres"].main["readinessProbe"]["exec"]["command"]
    assert asked == NAMED["postgres"]["healthcheck"]["test"][1:]


def selected(selector: Object) -> set[str]:
    """Names of workloads whose pods have these labels."""
    wanted = {key: [value] for key, value in selector.get("matchLabels", {}).items()}
    wanted |= {one["key"]: one["values"] for one in selector.get("matchExpressions", [])}
    return {name for name, one in WORKLOADS.items() if all(one.labels.get(key) in wanted[key] for key in wanted)}


def test_services_lead_to_their_pods_and_not_out_of_the_cluster() -> None:
    services = {found["metadata"]["name"]: found["spec"] for found in of_kind("Service")}
    assert set(services) == {"postgres", "mlflow", "prefect"}
    for name, spec in services.items():
        assert spec.get("type", "ClusterIP") == "ClusterIP" and "externalIPs" not in spec
        assert selected({"matchLabels": spec["selector"]}) == {name}
        listening = [port["containerPort"] for port in WORKLOADS[name].main["ports"]]
        assert [port["port"] for port in spec["ports"]] == listening
    assert not list(of_kind("Ingress", "Gateway", "HTTPRoute"))


def test_only_those_who_need_a_server_reach_it() -> None:
    policies = {found["metadata"]["name"]: found["spec"] for found in of_kind("NetworkPolicy")}
    assert policies.pop("nothing-comes-in") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    reached: set[tuple[str, str]] = set()
    for spec in policies.values():
        (rule,) = spec["ingress"]
        clients = {name for one in rule["from"] for name in selected(one["podSelector"])}
        ports = {port["port"] for port in rule["ports"]}
        for name in selected(spec["podSelector"]):
            assert {port["containerPort"] for port in WORKLOADS[name].main["ports"]} <= ports
            reached |= {(client, name) for client in clients}
    assert reached == {(client, name) for client, one in WORKLOADS.items() for name in addressed(one)}


def addressed(workload: Workload) -> set[str]:
    """Servers that it is told of."""
    maps: dict[str, list[str]] = {one["name"]: one["files"] for one in KUSTOMIZATION["configMapGenerator"]}
    files = [file for volume in workload.pod.get("volumes", []) for file in maps.get(volume["name"], [])]
    told = str(workload.pod) + "".join((DEPLOY / file).read_text(encoding="utf-8") for file in files)
    return {name for name in ("postgres", "mlflow", "prefect") if re.search(f"(@|http://){name}[:/]", told)}


def test_what_comes_first_holds_what_it_needs() -> None:
    """`kubectl apply -k deploy --selector step=first` brings Postgres and both schemas up, and no server."""
    labelled = [one["metadata"] for one in OBJECTS if one["metadata"].get("labels", {}).get("step") == "first"]
    names = ["mlflow-upgrade", "postgres", "postgres", "prefect-upgrade"]  # Postgres and its Service
    assert sorted(one["name"] for one in labelled) == names
    volumes = [volume for name in set(names) for volume in WORKLOADS[name].pod.get("volumes", [])]
    needed = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    maps = {one["name"]: one.get("options", {}).get("labels") for one in KUSTOMIZATION["configMapGenerator"]}
    assert {name for name, labels in maps.items() if labels == {"step": "first"}} == needed


@pytest.fixture
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("no kubectl on the PATH; what it renders needs no cluster")
    return found


def rendered(*command: Any) -> list[Object]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def test_kubectl_renders_all_of_it_into_one_namespace(kubectl: str) -> None:
    found = rendered(kubectl, "kustomize", DEPLOY)
    kinds = sorted(one["kind"] for one in found)
    assert kinds == sorted([*(one["kind"] for one in OBJECTS), "ConfigMap", "ConfigMap"])
    assert {one["metadata"].get("namespace") for one in found if one["kind"] != "Namespace"} == {"preflow"}
    scripts = [one["data"] for one in found if one["kind"] == "ConfigMap"]
    files = [DEPLOY / "postgres" / "databases.sh", DEPLOY / "mlflow" / "auth.ini"]
    told = {name: text for one in scripts for name, text in one.items()}
    assert told == {path.name: path.read_text(encoding="utf-8") for path in files}


def test_the_secret_and_the_overlay_of_the_readme(kubectl: str, tmp_path: Path) -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    (secret,) = re.findall(r"^kubectl (.*create secret .*)$", text, re.MULTILINE)
    words = secret.replace("=.env", f"={DEPLOY / '.env.example'}").split()
    (made,) = rendered(kubectl, *words, "--dry-run=client", "--output=yaml")
    assert made["metadata"] == {"creationTimestamp": None, "name": "preflow", "namespace": "preflow"}
    assert set(made["data"]) == set(EXAMPLE)

    (overlay,) = re.findall(r"```yaml\n(# kustomization.yaml.*?)```", text, re.DOTALL)
    shutil.copytree(DEPLOY, tmp_path / "preflow" / "deploy")
    (tmp_path / "kustomization.yaml").write_text(overlay)
    found = rendered(kubectl, "kustomize", tmp_path)
    images = {container["image"] for one in found for container in containers(one)}
    assert images == {"postgres:17.6-bookworm"} | {
        f"registry.example.org/preflow-{name}:0.1.0" for name in ("servers", "worker", "gpu-worker")
    }
    (remote,) = [one for one in found if (one["kind"], one["metadata"]["name"]) == ("PersistentVolumeClaim", "remote")]
    assert remote["spec"]["storageClassName"] == "nfs"


def containers(found: Object) -> list[Object]:
    pod = found.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]
