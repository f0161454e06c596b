"""`preflow plan` of weights that several processes divide, and the changes that it names: a stage can be run so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flows import profiles
from flows.plan import change as plan_change
from flows.plan import check
from flows.plan import measured as plan_measured
from flows.plan.card import GIB
from flows.plan.sizes import NAMED
from tasks.config.params import Params
from tasks.graph import load_graph
from tests.flows.test_plan import by_stage, planned, project

__all__ = ["project"]
BF16 = ("--set", "training.dtype=bfloat16")
TRAINING = ("sft", "reward_model", "dpo", "rejection_sampling", "rl")
pytestmark = pytest.mark.usefixtures("project")


def test_divided_weights_are_whole_between_two_steps() -> None:
    """However many there are: 2 bytes a weight with moments of all outside of the blocks; 4 as the base is loaded."""
    shape = NAMED["70B"]
    checkpointing = ("--set", "training.gradient_checkpointing=true")
    lines = by_stage(planned("--shape", "70B", "--gpu", "9000GB", "--n", "1024", *BF16, *checkpointing))
    outside = shape.parameters - shape.blocks
    for stage in TRAINING:
        assert lines[stage]["peak"] > 2 * shape.parameters + (4 + 8) * outside
    assert (lines["sft"]["moment"], lines["sft"]["terms"]["weights"]) == ("loading", 4 * shape.parameters)
    dpo = lines["dpo"]["terms"]
    shares = shape.blocks / 1024
    assert lines["dpo"]["moment"] == "gathering"
    assert dpo["weights"] == pytest.approx(2 * (shape.parameters + shares) + 4 * (outside + shares))
    assert dpo["moments"] == pytest.approx(8 * (outside + shares))


def test_a_frozen_base_is_divided_as_well() -> None:
    """However few weights are trained: between two steps a process has all of them, beside its eighth of the blocks."""
    shape = NAMED["8B"]
    options = ("--shape", "8B", "--gpu", "80GB", "--n", "8", *BF16, "--set", "training.gradient_checkpointing=true")
    lora, qlora = (
        by_stage(planned(*options, "--set", f"training.method={method}", "--set", "training.rank=16"))
        for method in ("lora", "qlora")
    )
    eighth, adapter = shape.blocks / 8, shape.adapter(16)
    assert lora["dpo"]["moment"] == "gathering" and qlora["dpo"]["moment"] == "training"
    assert lora["dpo"]["terms"]["weights"] == 2 * (shape.parameters + eighth) + 4 * adapter * (1 + 1 / 8)
    assert lora["dpo"]["terms"]["moments"] == adapter
    # Of the two reward models, which are trained one after another, the second's adapter is whole.
    assert lora["reward_model"]["terms"]["other models"] == 2 * 4 * adapter * (1 + 1 / 8) + 12 * adapter * 7 / 8


def test_no_number_of_gpus_trains_what_none_holds() -> None:
    lines = by_stage(planned("--shape", "70B", "--gpu", "80GB", "--n", "64", *BF16, code=1))
    assert not any(lines[stage]["fits"] for stage in TRAINING)


@pytest.mark.parametrize(("enough", "named"), [(2, 2), (5, 8), (8, 8), (9, 0)])
def test_no_more_processes_are_named_than_one_host_has_gpus(enough: int, named: int) -> None:
    def fits(values: Mapping[str, Any]) -> bool:
        return bool(values["training"]["nproc"] >= enough)

    change = plan_change.cheapest(Params().model_dump(by_alias=True), "sft", 100.0, fits, gpu=True)
    assert change == (f"training.nproc={named}, training.shard=true (on {named} GPUs)" if named else "")


@pytest.mark.parametrize(
    ("gpu", "named"),
    [
        ("12GB", {"training.shard=false", "training.method=qlora"}),
        ("24GB", {"training.shard=false", "training.method=lora"}),  # whole, the base has no share beside it
        ("40GB", {"training.method=lora"}),
    ],
)
def test_a_change_of_divided_weights_can_be_run(gpu: str, named: set[str]) -> None:
    """Weights and moments in 4 and 8 bits are not divided: settings that say both are refused."""

    def sft(settings: Mapping[str, str]) -> dict[str, Any]:
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return by_stage(planned("--shape", "8B", "--gpu", gpu, *words, code=1))["sft"]

    divided = {"training.dtype": "bfloat16", "training.nproc": "2", "training.shard": "true"}
    change = sft(divided)["change"]
    changes = change.split(" (")[0].split(", ")
    assert named <= set(changes) and ("training.shard=false" in changes) == ("training.shard=false" in named)
    assert "8bit" not in change
    assert sft(divided | dict(one.split("=") for one in changes))["fits"]


def test_of_several_processes_the_memory_of_one_is_kept(project: Path) -> None:
    """A stage's cost report adds up what its processes take; stages that train nothing are one."""
    values = profiles.whole(profiles.resolve(project, settings=("training.nproc=2",)))
    site = check.Site(project, project, load_graph(project), lambda: values)
    took = {"peak_memory_gib": 1.0, "peak_cuda_gib": 1.0}
    kept = check.remember(site, {"sft": took, "annotate": took}, ["sft", "annotate"])
    measured = {name.partition(",")[0]: size for name, (_, size) in kept}
    assert measured == {"sft": 0.5 * GIB, "annotate": GIB}
    assert sorted(plan_measured.kept(project)) == sorted(name for name, _ in kept)


def test_a_model_beside_counts_for_every_member_of_an_ensemble() -> None:
    """The SFT policy, and all reward models but the last one, which is the one that is trained."""
    one, three = (
        by_stage(planned("--shape", "8B", "--gpu", "900GB", *BF16, "--set", f"reward_model.ensemble={members}"))
        for members in (1, 3)
    )
    model = 2 * NAMED["8B"].parameters
    assert one["reward_model"]["terms"]["other models"] == 2 * model
    assert three["reward_model"]["terms"]["other models"] == 6 * model
