import gc
import json
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest

from rlhf.errors import PreflowError
from rlhf.models import Policy, load_policy, token_logprobs, trainable
from rlhf.online import to_batch
from rlhf.records import read_rows
from rlhf.rollouts import Rollout, write_rollouts
from rlhf.sampler import Completion
from tasks.config.rejection_sampling import RejectionSampling
from tasks.config.training import Training
from tasks.journal import Log
from tasks.rejection_sampling import rejection_sampling
from tests.tasks import tiny

QUICK = {"epochs": 8, "batch_size": 4, "lr": 0.02, "checkpoint_every": 3}


def rollout(prompt: int, text: str, reward: float | None, stop_reason: str = "stop") -> Rollout:
    chat = tiny.chat()
    ids = chat.encode_completion(text)
    return Rollout(
        prompt_id=f"p{prompt}", group=f"g{prompt}", completion_ids=ids, logprobs=[-1.0] * len(ids),
        stop_reason=stop_reason,
        prompt_ids=chat.encode_prompt([{"role": "user", "content": tiny.WORDS[prompt]}]), text=text, reward=reward,
        policy="digest",
    )  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


def save_inputs(tmp_path: Path) -> dict[str, Path]:
    """Six prompts, four completions each; `yes thanks` is always the best, in another place each time."""
    tiny.save_models(tmp_path)
    rows = []
    for prompt in range(6):
        others = [rollout(prompt, "no", 0.1), rollout(prompt, "red", -0.5), rollout(prompt, "blue blue", 0.3)]
        others.insert(prompt % 4, rollout(prompt, "yes thanks", 2.0))
        rows += others
    write_rollouts(tmp_path / "rollouts" / "rollouts.jsonl", rows)
    return {"policy": tmp_path / "policy", "rollouts": tmp_path / "rollouts"}


def run(inputs: dict[str, Path], folder: Path, **settings: Any) -> Path:
    out = folder / "out"
    out.mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    rejection_sampling(
        RejectionSampling.model_validate(QUICK | settings), seed=0, out=out, scratch=folder / "scratch",
        log=Log.null(), **inputs,
    )  # fmt: skip
    return out


def logprob_of(folder: Path, text: str) -> float:
    """Mean over the six prompts."""
    policy = load_policy(folder)
    prompts = [policy.chat.encode_prompt([{"role": "user", "content": tiny.WORDS[prompt]}]) for prompt in range(6)]
    ids = policy.chat.encode_completion(text)
    completions = [Completion(prompt, ids, [0.0] * len(ids), "stop") for prompt in range(6)]
    batch, _ = to_batch(prompts, completions, policy.chat.pad_id)
    return token_logprobs(policy.model, batch).sum(dim=1).mean().item()


def test_learns_the_best_and_the_control_does_not(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run(inputs, tmp_path / "run", epochs=20)
    start, best = logprob_of(inputs["policy"], "yes thanks"), logprob_of(out / "policy", "yes thanks")
    control = logprob_of(out / "random_control", "yes thanks")
    assert best > -0.5 > start
    assert control < best - 0.5


def test_writes_what_was_selected_and_what_it_was_compared_with(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run(inputs, tmp_path / "run", epochs=1)
    rows = list(read_rows(out / "selected" / "selected.jsonl"))
    best = [row for row in rows if row["selection"] == "best"]
    assert [(row["prompt_id"], row["index"], row["text"]) for row in best] == [
        (f"p{prompt}", prompt % 4, "yes thanks") for prompt in range(6)
    ]
    assert [row["prompt_id"] for row in rows if row["selection"] == "random"] == [f"p{prompt}" for prompt in range(6)]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["selected_reward"] == 2.0 and metrics["all_reward"] == pytest.approx((2.0 + 0.1 - 0.5 + 0.3) / 4)
    assert metrics["selected_length"] == 3.0 and metrics["all_length"] == pytest.approx((3 + 2 + 2 + 3) / 4)
    assert metrics["best_of_n_reward"]["1"] == pytest.approx(metrics["all_reward"])
    assert metrics["best_of_n_reward"]["4"] == 2.0


def test_cut_off_completions_are_chosen_by_neither_arm(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The fixed reward of a cut-off one is the highest here; prompt 2 has no finished one."""
    rows = [rollout(prompt, "red", -2.0, "length") for prompt in range(3)]
    rows += [rollout(prompt, "no", -3.0, "stop" if prompt < 2 else "length") for prompt in range(3)]
    rows += [rollout(prompt, "blue", -4.0, "stop" if prompt < 2 else "length") for prompt in range(3)]
    write_rollouts(inputs["rollouts"] / "rollouts.jsonl", rows)
    for selection in ("top_per_prompt", "top_overall"):
        out = run(inputs, tmp_path / selection, epochs=1, selection=selection)
        found = list(read_rows(out / "selected" / "selected.jsonl"))
        assert {row["stop_reason"] for row in found} == {"stop"}
        assert [row["text"] for row in found if row["selection"] == "best"] == ["no", "no"]
        assert sum(row["selection"] == "random" for row in found) == 2
        assert json.loads((out / "metrics.json").read_text())["dropped_prompts"] == 1


def test_below_the_least_reward_nothing_is_chosen_but_the_control_may_be(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Right answers have reward 1; prompt 2 has none, and is in neither arm."""
    rows = [rollout(prompt, "yes thanks", float(prompt < 2)) for prompt in range(3)]
    rows += [rollout(prompt, text, 0.0) for prompt in range(3) for text in ("no", "red", "blue")]
    write_rollouts(inputs["rollouts"] / "rollouts.jsonl", rows)
    for selection in ("top_per_prompt", "top_overall"):
        out = run(inputs, tmp_path / selection, epochs=1, selection=selection, min_reward=1.0)
        found = list(read_rows(out / "selected" / "selected.jsonl"))
        assert [row["text"] for row in found if row["selection"] == "best"] == ["yes thanks"] * 2
        control = [row for row in found if row["selection"] == "random"]
        assert len(control) == 2
        assert json.loads((out / "metrics.json").read_text())["dropped_prompts"] == 1
    with pytest.raises(PreflowError, match=r"0 of 12 finished completions reach .*min_reward=2.0, the best has 1"):
        run(inputs, tmp_path / "refused", min_reward=2.0)


def test_killed_and_run_again_gives_the_same_bytes(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two trainings: the first is not done again, the second starts."""
    unbroken = run(inputs, tmp_path / "unbroken")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.rejection_sampling.save_policy", die)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "broken")
    monkeypatch.undo()
    (tmp_path / "broken" / "out").rmdir()
    assert tiny.contents(run(inputs, tmp_path / "broken")) == tiny.contents(unbroken)


def test_top_overall_takes_as_many_as_there_are_prompts(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run(inputs, tmp_path / "run", epochs=1, selection="top_overall")
    best = [row for row in read_rows(out / "selected" / "selected.jsonl") if row["selection"] == "best"]
    assert len(best) == 6 and {row["text"] for row in best} == {"yes thanks"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([rollout(0, "no", 0.1), rollout(0, "red", 0.2), rollout(1, "no", 0.1)], r"\[1, 2\] completions"),
        ([rollout(0, "no", None)], "1 completions have no reward"),
        ([], "no completions"),
        ([rollout(0, "no", -2.0, "length")], r"0 of 1 completions ended.*generation\.max_new_tokens"),
    ],
)
def test_unusable_rollouts_are_refused(
    rows: list[Rollout], message: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    write_rollouts(inputs["rollouts"] / "rollouts.jsonl", rows)
    with pytest.raises(PreflowError, match=message):
        run(inputs, tmp_path / "run")


@pytest.mark.parametrize(("method", "alive"), [("lora", 1), ("full", 0)])
def test_only_a_frozen_base_is_kept_for_the_second_arm(
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: Literal["lora", "full"],
    alive: int,
) -> None:
    models: list[Any] = []
    met: list[int] = []

    def watched(*given: Any) -> Policy:
        gc.collect()
        met.append(sum(model() is not None for model in models))
        learner = trainable(*given)
        models.append(weakref.ref(learner.model.base if method == "lora" else learner.model))
        return learner

    monkeypatch.setattr("tasks.rejection_sampling.trainable", watched)
    out = tmp_path / "out"
    (tmp_path / "scratch").mkdir()
    rejection_sampling(
        RejectionSampling(epochs=1), training=Training(method=method, rank=2), seed=0, **inputs, out=out,
        scratch=tmp_path / "scratch", log=Log.null(),
    )  # fmt: skip
    assert met == [0, alive]
    assert (models[0] is models[1]) == bool(alive)  # an object has one weak reference: the same base
