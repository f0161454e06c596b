"""A stage on a worker is planned there, whose memory it is, and what it took corrects plans on both hosts."""

import json
from pathlib import Path

import pytest

from flows.plan.card import GIB
from tests.flows.toy import REPO, STAGE, git, make_toy
from tests.pools.hosts import Hosts

TOOK = """
folder = Path(os.environ["PREFLOW_HOME"], "journal", os.environ["PREFLOW_RUN"], f"{name}-1")
folder.mkdir()
cost = {"seconds_train": 1.0, "peak_memory_gib": 0.5, "peak_cuda_gib": 0.5}
end = {"event": "end", "time": 0, "status": "FINISHED", "exit_code": 0, "reason": "", "cost": cost}
(folder / "events.jsonl").write_text(json.dumps(end) + "\\n")
"""
HUGE = ("--set", "base.hidden_size=65536", "--set", "base.intermediate_size=262144", "--set", "base.num_layers=512")


@pytest.fixture
def hosts(tmp_path: Path, api: str) -> Hosts:
    """One stage that says of itself that it is the product's `rl`, with the product's settings."""
    hosts = Hosts.of_toy(tmp_path, api, "pools: {}\n")
    project = make_toy(tmp_path / "planned")
    (project / "stage.py").write_text(STAGE + TOOK)
    same = "python -m tasks.rl --params rl --reward-model data/07 --reward-metrics data/07"
    stage = f"rl:\n    cmd: 'python stage.py rl # {same}'\n    deps: [stage.py]\n"
    keys = "[rl, base.hidden_size, base.num_layers]"
    (project / "dvc.yaml").write_text(f"stages:\n  {stage}    params: {keys}\n    outs: [data/rl]\n")
    values = (REPO / "params.yaml").read_text()
    assert "\npools: {}\n" in values
    (project / "params.yaml").write_text(values.replace("\npools: {}\n", "\npools: {rl: gpu}\n"))
    git(project, "commit", "-qam", "planned")
    git(project, "push", "-q", "--force", str(hosts.hub), "main")
    return hosts


@pytest.mark.slow
def test_the_worker_plans_and_both_learn(hosts: Hosts) -> None:
    here, there = hosts.host("here"), hosts.host("there")
    with hosts.worker(there, "gpu"):
        refused = hosts.typed(here, "run", *HUGE)
        assert refused.returncode == 1, refused.stderr
        assert "GiB for weights, gradients and moments alone" in refused.stdout + refused.stderr
        assert not list(hosts.base.glob("*/project/.preflow/**/plan.json"))
        anyway = hosts.typed(here, "run", "--no-plan", *HUGE)
        assert anyway.returncode == 0, anyway.stderr
    own, workers = here / ".preflow/plan.json", there / ".preflow/worker"
    for path in (own, *workers.rglob("plan.json")):
        ((name, (took,)),) = json.loads(path.read_text()).items()
        assert name.startswith("rl, ") and took["measured"] == 0.5 * GIB
    assert len(list(workers.rglob("plan.json"))) == 1
