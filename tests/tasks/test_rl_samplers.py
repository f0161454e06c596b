"""Stage `rl` on samplers that are not ours: what is learnt, what is logged, and what is refused before any work."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import DependencyDown, NumericsError, PreflowError
from rlhf.models import Policy
from rlhf.sampler import Completion, sample
from rlhf.seeding import derive
from tasks.config.training import Training
from tests.rlhf.stub_sampler import Answer, Stub, right, stub_of
from tests.tasks import tiny
from tests.tasks.small_rl import BLOCKS, NO_MODEL, metrics_of, run, save_inputs

CORRECTED = BLOCKS["rloo"].model_copy(update={"importance_cap": 2.0})


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    found = save_inputs(tmp_path)
    return {name: path for name, path in found.items() if name not in ("reward_model", "held_out", "reward_metrics")}


@pytest.fixture
def stub(inputs: dict[str, Path]) -> Iterator[Stub]:
    with stub_of(inputs["policy"]) as found:
        yield found


def learn(inputs: dict[str, Path], folder: Path, block: Any = CORRECTED, **settings: Any) -> Any:
    return run(inputs, folder, "rloo", block, rewards=NO_MODEL, **settings)


def at(stub: Stub, **settings: Any) -> dict[str, Any]:
    return {"sampler": "server", "sampler_server": {"url": stub.url, "timeout_seconds": 60.0, **settings}}


def prompt_by_prompt(policy: Policy, prompts: Sequence[Sequence[int]], *, seed: int, **how: Any) -> list[Completion]:
    """As the stub draws, without a server in between."""
    return [
        Completion(index, one.ids, one.logprobs, one.stop_reason)
        for index, prompt in enumerate(prompts)
        for one in sample(policy, [prompt], seed=derive(seed, "sample", index), **how)
    ]


def test_a_server_teaches_what_the_same_samples_do_without_one(
    stub: Stub, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte: weights go by the folder, ids and log-probabilities come back, and nothing is lost on the way."""
    log = learn(inputs, tmp_path / "served", **at(stub))
    monkeypatch.setattr("tasks.samplers.sample_together", prompt_by_prompt)
    learn(inputs, tmp_path / "unserved")
    assert tiny.contents(tmp_path / "served/out") == tiny.contents(tmp_path / "unserved/out")
    loads = len(stub.bodies("/collective_rpc"))
    assert loads == 1 + metrics_of(tmp_path / "served")["val"][-1]["update"]  # the start, and one after each update
    assert log.steps[0]["rl/sampler_gap_max"] < 1e-4
    assert log.steps[0]["rl/importance"] == pytest.approx(1.0, abs=1e-4)
    assert not (tmp_path / "served/out/handed_over").exists()


def test_continuous_batching_learns(inputs: dict[str, Path], tmp_path: Path) -> None:
    log = learn(inputs, tmp_path / "run", sampler="continuous_batching", num_updates=6, val_every=6)
    looks = metrics_of(tmp_path / "run")["val"]
    assert looks[-1]["reward"] > looks[0]["reward"] + 0.1
    gaps = [step["rl/sampler_gap_max"] for step in log.steps.values() if "rl/sampler_gap_max" in step]
    assert len(gaps) == 6 and max(gaps) < 1e-3


def test_a_folder_that_is_shared_has_one_of_its_own_for_the_stage(
    stub: Stub, inputs: dict[str, Path], tmp_path: Path
) -> None:
    learn(inputs, tmp_path / "run", num_updates=1, **at(stub, folder=str(tmp_path / "shared")))
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["scratch"]
    assert not (tmp_path / "run/scratch/handed_over").exists()


def test_a_server_of_less_precision_is_corrected_for(stub: Stub, inputs: dict[str, Path], tmp_path: Path) -> None:
    stub.dtype = torch.bfloat16
    log = learn(inputs, tmp_path / "run", **at(stub))
    steps = [step for step in log.steps.values() if "rl/sampler_gap" in step]
    assert len(steps) == 12
    assert all(1e-4 < step["rl/sampler_gap"] < step["rl/sampler_gap_max"] < 0.1 for step in steps)
    assert all(0.9 < step["rl/importance"] < 1.1 and step["rl/importance_max"] > 1.001 for step in steps)
    looks = metrics_of(tmp_path / "run")["val"]
    assert looks[-1]["reward"] > looks[0]["reward"] + 0.1


def test_a_server_of_other_numbers_ends_the_training(stub: Stub, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Log-probabilities before the temperature, say."""

    def other(answer: Answer) -> Answer:
        for one in answer["choices"]:
            one["logprobs"]["token_logprobs"] = [0.9 * value for value in one["logprobs"]["token_logprobs"]]
        return answer

    stub.faults = lambda number: other
    with pytest.raises(NumericsError, match=r"sampler and trainer differ by .* nats a token"):
        learn(inputs, tmp_path / "run", **at(stub))


@pytest.mark.faults(
    23,
    injected="a sampler server that keeps the weights of the start and says that it has loaded each version",
    happens="the difference to the trainer is noticed",
)
def test_a_server_that_lies_about_its_version_is_found_out(stub: Stub, inputs: dict[str, Path], tmp_path: Path) -> None:
    """As a vLLM that takes weights from a cache in place of the path (vllm-project/vllm#32718)."""
    stub.loads, stub.honest = lambda number: False, False
    with pytest.raises(NumericsError, match=r"sampler and trainer differ by .*both use the same weights"):
        learn(inputs, tmp_path / "run", **at(stub))
    assert not list((tmp_path / "run/out").iterdir())


@pytest.mark.parametrize("sampler", ["continuous_batching", "server"])
def test_another_engine_without_a_correction_is_refused(sampler: str, inputs: dict[str, Path], tmp_path: Path) -> None:
    told = rf"rl\.sampler is {sampler}, .* set algorithms\.rloo\.importance_cap \(2 is usual\)"
    with pytest.raises(PreflowError, match=told):
        learn(inputs, tmp_path / "run", BLOCKS["rloo"], sampler=sampler)


def test_a_server_that_is_away_is_said_before_any_work(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rl.load_reference", lambda *_: pytest.fail("work was begun"))
    nobody = {"url": "http://127.0.0.1:9", "attempts": 1}
    with pytest.raises(DependencyDown, match=r"the sampler server at http://127\.0\.0\.1:9 did not answer"):
        learn(inputs, tmp_path / "run", sampler="server", sampler_server=nobody)


def test_a_sampler_that_cannot_take_the_policy_is_said_before_any_work(
    stub: Stub, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rl.load_reference", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(PreflowError, match="continuous batching does not know adapters"):
        learn(inputs, tmp_path / "adapted", sampler="continuous_batching", training=Training(method="lora"))
    with pytest.raises(PreflowError, match="no adapter to hand over"):
        learn(inputs, tmp_path / "whole", **at(stub, hand_over="adapter"))


def test_one_that_goes_away_and_comes_back_costs_nothing(stub: Stub, inputs: dict[str, Path], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_updates": 6, "val_every": 3, "checkpoint_every": 2}
    learn(inputs, tmp_path / "unbroken", **settings, **at(stub))
    half = len(stub.bodies("/v1/completions")) // 2
    stub.asked.clear()
    stub.faults = lambda number: right if number < half else lambda answer: 503
    with pytest.raises(DependencyDown, match="HTTP 503"):
        learn(inputs, tmp_path / "broken", **settings, **at(stub, attempts=1))
    stub.faults = lambda number: right
    (tmp_path / "broken/out").rmdir()
    learn(inputs, tmp_path / "broken", **settings, **at(stub))
    assert tiny.contents(tmp_path / "broken/out") == tiny.contents(tmp_path / "unbroken/out")
