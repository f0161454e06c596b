import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import PreflowError
from rlhf.models import Policy, load_policy, token_logprobs
from rlhf.preferences import Example, encode_example, example_batch
from rlhf.records import write_rows
from tasks import dpo as stage
from tasks.config.algorithms.direct import Cdpo, DirectAlgorithm, Dpo, DpoNll, DpoNorm, Ipo, Kto, Orpo, Simpo
from tasks.config.dpo import DirectAlignment
from tasks.dpo_losses import loss_of
from tasks.journal import Log
from tests.tasks import tiny

QUICK = {"epochs": 6, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 3, "max_batch_tokens": 64}
FAST = Dpo(lr=0.01)
METHODS: list[DirectAlgorithm] = [
    FAST, Cdpo(lr=0.01), Ipo(lr=0.01), Kto(lr=0.02), Orpo(lr=0.01), Simpo(lr=0.01), DpoNorm(lr=0.01), DpoNll(lr=0.01),
]  # fmt: skip
every_method = pytest.mark.parametrize("algorithm", METHODS, ids=lambda algorithm: algorithm.name)


def rows(words: list[str]) -> list[dict[str, Any]]:
    """People here like `yes please` better than `no no`, whatever was asked."""
    return [
        {
            "messages": [{"role": "user", "content": word}],
            "chosen": "yes please",
            "rejected": "no no",
            "id": word,
            "half": "policy",
        }
        for word in words
    ]


def unpaired(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shared = [{name: pair[name] for name in ("messages", "id", "half")} for pair in pairs]
    good = [row | {"completion": pair["chosen"], "label": True} for row, pair in zip(shared, pairs, strict=True)]
    return good + [
        row | {"completion": pair["rejected"], "label": False} for row, pair in zip(shared, pairs, strict=True)
    ]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    tiny.save_models(tmp_path)
    write_rows(tmp_path / "pairs" / "train.jsonl", rows(tiny.WORDS[:7]))
    write_rows(tmp_path / "pairs" / "val.jsonl", rows(tiny.WORDS[7:]))
    return {"policy": tmp_path / "policy", "pairs": tmp_path / "pairs"}


def run(
    inputs: dict[str, Path], folder: Path, log: Log | None = None, algorithm: DirectAlgorithm = FAST, **settings: Any
) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir(exist_ok=True)
    stage.dpo(
        DirectAlignment.model_validate(QUICK | settings), algorithm=algorithm, seed=0,
        out=folder / "out", scratch=folder / "scratch", log=log or Log.null(), **inputs,
    )  # fmt: skip
    metrics: dict[str, Any] = json.loads((folder / "out" / "metrics.json").read_text())
    return metrics


def summed(policy: Policy, example: Example) -> list[float]:
    """log π of each completion of an example, one sequence at a time."""
    batches = [example_batch([(one,)], policy.chat.pad_id)[0] for one in example]
    with torch.no_grad():
        return [token_logprobs(policy.model, batch).sum().item() for batch in batches]


@every_method
def test_learns_to_prefer_what_was_preferred_on_prompts_it_has_not_seen(
    algorithm: DirectAlgorithm, inputs: dict[str, Path], tmp_path: Path
) -> None:
    metrics = run(inputs, tmp_path / "run", algorithm=algorithm)
    assert metrics["pairs"] == 7 and metrics["val_pairs"] == 3
    assert metrics["val_accuracy"] == 1.0 and metrics["val_margin"] > 0
    policy, start = load_policy(tmp_path / "run/out/policy"), load_policy(inputs["policy"])
    example = encode_example(policy.chat, rows(tiny.WORDS[7:8])[0])
    after, before = summed(policy, example), summed(start, example)
    assert after[0] - before[0] > after[1] - before[1] + 0.5
    assert metrics["val_chosen_logprob"] > metrics["val_rejected_logprob"]


class First(Log):
    """Keeps the metrics of the first step."""

    seen: dict[str, float] | None = None

    def __call__(self, metrics: Any, step: int) -> None:
        self.seen = self.seen or dict(metrics)


def test_the_first_step_is_at_the_reference(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Cached log-probabilities are those of the policy it starts from: loss log 2, accuracy a tie, margin 0."""
    log = First(None)
    run(inputs, tmp_path / "run", log=log)
    assert log.seen is not None
    assert log.seen["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert log.seen["dpo/margin"] == pytest.approx(0.0, abs=1e-5)
    assert log.seen["dpo/displacement"] == pytest.approx(0.0, abs=1e-4)
    assert log.seen["dpo/chosen_logprob"] < 0 and log.seen["dpo/rejected_logprob"] < 0


def lesson_of(algorithm: DirectAlgorithm, policy: Policy) -> stage.Lesson:
    """Eight pairs of different lengths."""
    pairs = [
        row | {"chosen": " ".join(["yes"] * (1 + number % 3)), "rejected": " ".join(["no"] * (1 + number % 4))}
        for number, row in enumerate(rows(tiny.WORDS[:8]))
    ]
    return stage._lesson(algorithm, [encode_example(policy.chat, row) for row in pairs], 1000)


def reference_of(policy: Policy, lesson: stage.Lesson) -> dict[str, float]:
    return {key: summed(policy, (one,))[0] for key, one in stage._asked([lesson]).items()}


@every_method
def test_gradients_do_not_depend_on_how_the_step_is_cut(algorithm: DirectAlgorithm) -> None:
    policy, start = tiny.policy(1), tiny.policy(0)
    lesson = lesson_of(algorithm, policy)
    reference = reference_of(start, lesson)
    found = []
    for max_batch_tokens in (1000, 40, 20):
        config = DirectAlignment(max_batch_tokens=max_batch_tokens)
        step = stage._step(config, algorithm, policy, lesson, reference)
        policy.model.zero_grad()
        for micro_batch in step.micro_batches:
            (loss_of(algorithm, policy.model, micro_batch)[0].sum() / step.denominator).backward()
        found.append((len(step.micro_batches), torch.cat([p.grad.flatten() for p in policy.model.parameters()])))
    (one, whole), (some, halves), (many, smallest) = found
    assert one == 1 < some < many and whole.norm() > 0
    torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(smallest, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (Ipo(beta=0.5), lambda c, r, rc, rr, lc, lr: (c - rc - r + rr - 1) ** 2),
        (DpoNorm(beta=2.0), lambda c, r, rc, rr, lc, lr: math.log1p(math.exp(-2 * ((c - rc) / lc - (r - rr) / lr)))),
        (Simpo(beta=2.0, gamma=0.5), lambda c, r, rc, rr, lc, lr: math.log1p(math.exp(-2 * (c / lc - r / lr) + 0.5))),
        (Dpo(beta=0.5), lambda c, r, rc, rr, lc, lr: math.log1p(math.exp(-0.5 * (c - rc - r + rr)))),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_losses_see_sums_over_completions_and_their_lengths_stop_token_included(
    algorithm: DirectAlgorithm, expected: Callable[..., float]
) -> None:
    """Against plain arithmetic, a sequence at a time; the batch is padded."""
    policy, start = tiny.policy(1), tiny.policy(0)
    lesson = lesson_of(algorithm, policy)
    step = stage._step(DirectAlignment(), algorithm, policy, lesson, reference_of(start, lesson))
    (micro_batch,) = step.micro_batches
    by_hand = [
        expected(*summed(policy, pair), *summed(start, pair), 2 + number % 3, 2 + number % 4)
        for number, pair in enumerate(lesson.examples)
    ]
    found, _ = loss_of(algorithm, policy.model, micro_batch)
    assert sorted(found.tolist()) == pytest.approx(sorted(by_hand), abs=1e-4)


def test_cached_reference_log_probabilities_are_those_of_a_live_reference(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    start = load_policy(inputs["policy"])
    lesson = lesson_of(Kto(), start)
    asked = stage._asked([lesson, lesson])
    assert len(asked) == len({one.key for one in (*(example[0] for example in lesson.examples), *lesson.mismatched)})
    for _ in range(2):  # computed, and read again
        cached = stage._reference(DirectAlignment(max_batch_tokens=100), start, asked, inputs["policy"], tmp_path)
        assert cached == pytest.approx(reference_of(start, lesson), abs=1e-5)


def test_kto_s_baseline_is_that_of_the_whole_step_on_mismatched_completions() -> None:
    """By hand: prompt 1 with the completion of prompt 2, and so on round, good ones first."""
    policy, start = tiny.policy(1), tiny.policy(0)
    good = [encode_example(policy.chat, row)[0] for row in unpaired(rows(["red", "blue one"]))]
    lesson = stage._lesson(Kto(), [(one,) for one in good], 1000)
    ratios = []
    for prompt, answer in ((0, 1), (1, 2), (2, 3), (3, 0)):
        crossed = encode_example(
            policy.chat,
            {
                "messages": [{"role": "user", "content": ["red", "blue one", "red", "blue one"][prompt]}],
                "completion": ["yes please", "yes please", "no no", "no no"][answer],
                "label": True,
            },
        )
        ratios.append(summed(policy, crossed)[0] - summed(start, crossed)[0])
    config = DirectAlignment(max_batch_tokens=20)
    for learner, reference, expected in ((policy, start, sum(ratios) / 4), (start, policy, -sum(ratios) / 4)):
        step = stage._step(config, Kto(), learner, lesson, reference_of(reference, lesson))
        assert len(step.micro_batches) > 1
        assert {micro_batch.baseline for micro_batch in step.micro_batches} == {step.metrics["baseline"]}
        assert step.metrics["baseline"] == pytest.approx(max(0.0, expected), abs=1e-5)


def test_kto_learns_from_completions_without_rivals_what_it_learns_from_pairs(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """In one batch they are the same completions, so the same gradient."""
    paired = run(inputs, tmp_path / "paired", algorithm=Kto(lr=0.02), batch_size=14, max_batch_tokens=1000)
    for split, words in (("train", tiny.WORDS[:7]), ("val", tiny.WORDS[7:])):
        write_rows(inputs["pairs"] / f"{split}.jsonl", unpaired(rows(words)))
    alone = run(inputs, tmp_path / "alone", algorithm=Kto(lr=0.02), batch_size=14, max_batch_tokens=1000)
    assert alone["pairs"] == 14 and alone["steps"] == paired["steps"]
    assert alone["val_accuracy"] == 1.0 and alone["val_loss"] == pytest.approx(paired["val_loss"], rel=0.05)


def test_ratings_are_for_kto_and_are_dropped_where_the_model_has_no_room(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Pairs and their sides as ratings are the same lesson, so that a half of each is what all pairs are."""
    whole = run(inputs, tmp_path / "whole", algorithm=Kto(lr=0.02), batch_size=14, max_batch_tokens=1000)
    words = tiny.WORDS[:7]
    too_long = unpaired(rows([" ".join(words * 40)]))
    write_rows(tmp_path / "some" / "train.jsonl", rows(words[:3]))
    write_rows(tmp_path / "some" / "val.jsonl", [])
    write_rows(tmp_path / "ratings" / "train.jsonl", [*unpaired(rows(words[3:])), *too_long])
    write_rows(tmp_path / "ratings" / "val.jsonl", unpaired(rows(tiny.WORDS[7:])))
    mixed = {**inputs, "pairs": tmp_path / "some", "ratings": tmp_path / "ratings"}
    metrics = run(mixed, tmp_path / "mixed", algorithm=Kto(lr=0.02), batch_size=11, max_batch_tokens=1000)
    assert (metrics["pairs"], metrics["ratings"], metrics["val_pairs"]) == (3 + 8, 8, 2 * whole["val_pairs"])
    assert metrics["val_margin"] > 0.1
    write_rows(tmp_path / "some" / "val.jsonl", rows(tiny.WORDS[7:]))
    unused = run(mixed, tmp_path / "unused", algorithm=FAST)
    assert unused["pairs"] == 3 and "ratings" not in unused


def test_kto_crosses_only_what_a_pass_has_room_for(inputs: dict[str, Path], tmp_path: Path) -> None:
    """A long prompt, and a long completion of another: either fits, but not the one with the other."""
    talk = " ".join(["red"] * 27)
    long = [
        {"messages": [{"role": "user", "content": talk}], "chosen": "yes", "rejected": "no", "half": "policy"},
        {"messages": [{"role": "user", "content": "red"}], "chosen": talk, "rejected": "no", "half": "policy"},
    ]
    write_rows(inputs["pairs"] / "train.jsonl", long)
    metrics = run(inputs, tmp_path / "run", algorithm=Kto(lr=0.01), max_batch_tokens=40)
    assert metrics["pairs"] == 2


def test_a_pair_that_does_not_go_into_a_pass_is_said_with_the_knob(inputs: dict[str, Path], tmp_path: Path) -> None:
    """<bos> <user> word <bot> yes please <end>: 7 tokens a side."""
    with pytest.raises(PreflowError, match=r"may take 14 tokens .*dpo\.max_batch_tokens is 13: raise it to 14"):
        run(inputs, tmp_path / "pairs", max_batch_tokens=13)
    run(inputs, tmp_path / "alone", algorithm=Kto(lr=0.01), max_batch_tokens=13, epochs=1)
    with pytest.raises(PreflowError, match=r"may take 7 tokens .*dpo\.max_batch_tokens is 6"):
        run(inputs, tmp_path / "singles", algorithm=Kto(lr=0.01), max_batch_tokens=6)


def test_the_kept_reference_is_that_of_the_whole_policy(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Weights may have other names or lie in several files."""
    start = load_policy(inputs["policy"])
    asked = stage._asked([lesson_of(Kto(), start)])
    for content in (b"1", b"2"):
        (inputs["policy"] / "more.safetensors").write_bytes(content)
        stage._reference(DirectAlignment(), start, asked, inputs["policy"], tmp_path)
    assert len(list(tmp_path.glob("reference-*"))) == 2


def test_other_methods_refuse_completions_without_rivals(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_rows(inputs["pairs"] / "train.jsonl", [*rows(["red"]), *unpaired(rows(["blue"]))])
    with pytest.raises(
        PreflowError, match=r"2 of 3 rows hold one .* expected pairs for `dpo`: set dpo.algorithm to kto"
    ):
        run(inputs, tmp_path / "run")


@pytest.mark.parametrize("algorithm", [Orpo(lr=0.01), Simpo(lr=0.01)], ids=lambda algorithm: algorithm.name)
def test_methods_without_a_reference_do_not_compute_it(
    algorithm: DirectAlgorithm, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_reference", None)
    run(inputs, tmp_path / "run", algorithm=algorithm)


def test_killed_and_run_again_gives_the_same_bytes_without_asking_the_reference_again(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(inputs, tmp_path / "unbroken", algorithm=Kto(lr=0.01))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.dpo.save_policy", die)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "broken", algorithm=Kto(lr=0.01))
    monkeypatch.undo()
    (tmp_path / "broken" / "out").rmdir()
    monkeypatch.setattr("tasks.dpo.save_file", die)
    run(inputs, tmp_path / "broken", algorithm=Kto(lr=0.01))
    assert tiny.contents(tmp_path / "broken/out") == tiny.contents(tmp_path / "unbroken/out")


def test_cached_reference_is_not_used_for_other_pairs(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run")
    write_rows(inputs["pairs"] / "val.jsonl", rows(["red blue", "two"]))
    (tmp_path / "run/out").rename(tmp_path / "run/first")
    run(inputs, tmp_path / "run")
    assert len(list((tmp_path / "run/scratch").glob("reference-*.safetensors"))) == 2


def test_learns_nothing_from_the_half_that_the_judge_was_fitted_on(inputs: dict[str, Path], tmp_path: Path) -> None:
    expected = run(inputs, tmp_path / "without")
    others = [row | {"half": "held_out", "chosen": "no no", "rejected": "yes please"} for row in rows(tiny.WORDS[:7])]
    write_rows(inputs["pairs"] / "train.jsonl", [*others, *rows(tiny.WORDS[:7])])
    assert run(inputs, tmp_path / "with") == expected
    assert tiny.contents(tmp_path / "with/out") == tiny.contents(tmp_path / "without/out")
