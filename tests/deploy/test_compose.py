"""deploy/ holds together: names lead somewhere, ports are loopback's, nothing starts without passwords."""

import json
import os
import re
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.deploy.composed import DEPLOY, REPO, SECRETS, compose
from tests.flows.toy import git, make_toy

SERVICES = compose(SECRETS)["services"]
LINES = (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
EXAMPLE = dict(line.split("=", 1) for line in LINES if "=" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_nothing_starts_without_a_password(name: str) -> None:
    with pytest.raises(KeyError, match=f"set {name} .*in deploy/.env"):
        compose(SECRETS | {name: ""})


def test_the_example_names_every_variable_and_gives_no_password() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)", text)) == set(EXAMPLE)
    assert {name for name, value in EXAMPLE.items() if value} == {"MLFLOW_PORT", "PREFECT_PORT"}
    assert {name: EXAMPLE[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=REPO, check=False)
    assert ignored.returncode == 0


def test_no_secret_is_an_argument() -> None:
    checks = [service.get("healthcheck", {}).get("test", []) for service in SERVICES.values()]
    said = [service.get("command", []) for service in SERVICES.values()] + checks
    told = " ".join(word for words in said for word in words)
    assert [value for value in SECRETS.values() if value in told] == []


def test_published_ports_are_those_of_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"], "prefect": ["127.0.0.1:4200:4200"]}


def test_every_name_leads_somewhere() -> None:
    volumes = set(compose(SECRETS)["volumes"])
    for name, service in compose(dict.fromkeys(SECRETS, "secret"))["services"].items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)
            else:
                assert SERVICES[other]["restart"] == "no", (name, other)  # it is to end, and to end once
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in volumes, (name, mount)
        told = str([service.get("command"), service.get("environment")])
        for address in re.findall(r"(?:@|http://)([a-z]+)[:/]", told):
            assert address in SERVICES, (name, address)
    files = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for line in files for name in line.split()}
    assert [name for name in named if not (REPO / name).exists()] == []
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == named
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {service["build"]["target"] for service in SERVICES.values() if "build" in service} <= targets


def test_versions_are_those_that_are_tested() -> None:
    """Foreign images have a full version; what pip installs is held by constraints.txt, drivers and extras too."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    bases = [image for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if ":" in image]
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-\S+", image) for image in [*images, *bases])
    installs = re.findall(r"^RUN pip install (.+)$", text, re.MULTILINE)
    assert all("-c constraints.txt" in line or "grep '^torch=='" in line for line in installs)
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", (REPO / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    extras = [one for one in requires("preflow") or [] if re.search(r"extra == .(postgres|auth)", one)]
    drivers = {re.split(r"[^a-z0-9-]", one.lower())[0] for one in extras}
    assert drivers == {"psycopg2-binary", "asyncpg", "flask-wtf"} and drivers <= pinned


def worker(tmp_path: Path, repository: str, *command: str, **further: str) -> subprocess.CompletedProcess[str]:
    from flows.dvc import environ

    own = {"PREFLOW_CLONE": str(tmp_path / "work"), "PREFLOW_REMOTE": str(tmp_path / "remote")}
    own["PREFLOW_REPOSITORY"] = repository
    argv = [str(DEPLOY / "worker.sh"), *command]
    return subprocess.run(
        argv, env=environ() | own | further, cwd=tmp_path, capture_output=True, text=True, check=False
    )


def test_a_worker_clones_once_and_knows_the_shared_remote(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "origin")
    refused = worker(tmp_path, "", "true")
    assert refused.returncode != 0 and "PREFLOW_REPOSITORY: set it in deploy/.env" in refused.stderr
    for _ in range(2):
        ask = "pwd; echo $PYTHONPATH; dvc config core.remote; dvc config remote.shared.url"
        done = worker(tmp_path, str(toy), "bash", "-c", ask)
        assert done.returncode == 0, done.stderr
        place, path, remote, url = done.stdout.splitlines()
        assert place == path == str(tmp_path / "work")
        assert (remote, url) == ("shared", str(tmp_path / "remote"))
    # The remote is in DVC's local configuration, which git ignores.
    assert git(tmp_path / "work", "status", "--porcelain") == ""
    assert worker(tmp_path, str(toy), "bash", "-c", "exit 3").returncode == 3


def test_a_file_of_secrets_is_taken_as_it_stands_and_no_piece_of_it_is_said(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "origin")
    values = {
        "A": "open sesame",
        "B": "a$HOME`id`$(id)",
        "C": 'it\'s "so"; exit 9 # x=y',
        "D": " \\n ",
        "E": "",
        "F": "*",
    }
    secrets = tmp_path / "stage.env"
    secrets.write_text("# of the worker\n\n" + "\n".join(f"OWN_{name}={value}" for name, value in values.items()))
    ask = "import json, os; print(json.dumps({n[4:]: v for n, v in os.environ.items() if n.startswith('OWN_')}))"
    done = worker(tmp_path, str(toy), "python", "-c", ask, PREFLOW_SECRETS=str(secrets))
    assert done.returncode == 0 and json.loads(done.stdout) == values, done.stderr
    secrets.write_text("OWN_A=1\nopen sesame\n")
    refused = worker(tmp_path, str(toy), "true", PREFLOW_SECRETS=str(secrets))
    assert refused.returncode == 2 and "line 2 of the file with secrets: expected VARIABLE=value" in refused.stderr
    assert "sesame" not in refused.stdout + refused.stderr


def test_what_a_shell_runs_can_be_run() -> None:
    for path in (DEPLOY / "worker.sh", DEPLOY / "postgres" / "databases.sh"):
        assert os.access(path, os.X_OK), path
