"""The stage on tiny random policies: its files, their promises, and the champion's way through it and back."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models import RewardModel, new_policy
from rlhf.records import read_rows, val_half, write_rows
from rlhf.spending import ACCOUNT
from tasks import beside, measurements
from tasks import champion as champions
from tasks.config.evaluate import Evaluate
from tasks.config.gate import Gate
from tasks.evaluate import evaluate
from tasks.gate import decide
from tasks.graph import digest
from tasks.journal import Log
from tests.tasks.scores import trusted
from tests.tasks.small_evaluation import (
    CONFIG,
    FIELDS,
    GENERATION,
    META,
    WORDS,
    make_policy,
    make_prompts,
    make_world,
    run,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_world(tmp_path_factory.mktemp("world"), META)


@pytest.fixture(scope="module")
def first(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("first")
    return run(world, folder / "out", log=Log(folder / "journal", "evaluate")), folder


def test_scores_hold_what_programs_are_promised(first: tuple[dict[str, Any], Path]) -> None:
    scores, _ = first
    assert scores["judge"] == "gold"
    assert set(scores["policies"]) == {"base", "sft", "rejection_sampling", "rl", "dpo"}  # no control, no champion
    for row in scores["policies"].values():
        for field in FIELDS:
            point = row[field]
            assert set(point) == {"mean", "ci_low", "ci_high"}
            assert point["ci_low"] <= point["mean"] <= point["ci_high"]
    assert scores["selection"]["split"] == "val"
    assert set(scores["selection"]["policies"]) == {"rejection_sampling", "rl", "dpo"}


def test_a_policy_that_is_sft_scores_as_sft(first: tuple[dict[str, Any], Path]) -> None:
    scores, folder = first
    sft, twin = scores["policies"]["sft"], scores["policies"]["dpo"]
    assert twin == sft
    assert twin["win_rate_vs_sft"]["mean"] == 0.5
    assert abs(twin["kl"]["mean"]) < 1e-4
    assert scores["policies"]["rl"]["kl"]["mean"] > 0.01
    assert scores["differences"]["sft"]["dpo"]["reward"] == {"mean": 0.0, "ci_low": 0.0, "ci_high": 0.0}
    completions = folder / "out" / "completions"
    assert (completions / "dpo.jsonl").read_bytes() == (completions / "sft.jsonl").read_bytes()


def test_means_are_those_of_the_rows_that_were_kept(first: tuple[dict[str, Any], Path]) -> None:
    scores, folder = first
    answers = [one for row in read_rows(folder / "out/completions/rl.jsonl") for one in row["completions"]]
    assert len(answers) == 6 * 2
    for metric in ("gold_reward", "reward", "held_out_reward"):
        mean = math.fsum(one[metric] for one in answers) / len(answers)
        assert scores["policies"]["rl"][metric]["mean"] == pytest.approx(mean)
    stopped = sum(one["stop_reason"] == "stop" for one in answers) / len(answers)
    assert scores["policies"]["rl"]["stop_rate"]["mean"] == pytest.approx(stopped)
    assert scores["policies"]["rl"]["length"]["mean"] == pytest.approx(sum(len(a["ids"]) for a in answers) / 12)
    assert all(one["reward"] == -2.0 for one in answers if one["stop_reason"] == "length")


def test_the_log_gets_figures_and_samples_and_the_outputs_do_not(first: tuple[dict[str, Any], Path]) -> None:
    _, folder = first
    logged = {path.name for path in (folder / "journal" / "files").iterdir()}
    assert logged == {"samples.json", "policies.png", "reward_against_kl.png", "best_of_n.png"}
    samples = json.loads((folder / "journal" / "files" / "samples.json").read_text("utf-8"))
    assert list(samples[0]) == ["prompt", "base", "sft", "rejection_sampling", "dpo", "rl"]
    assert {path.name for path in (folder / "out").iterdir()} == {"scores.json", "curves.json", "completions"}


def test_the_same_inputs_give_the_same_bytes(
    world: dict[str, Path], first: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    run(world, tmp_path / "again")
    assert champions.folder_digest(tmp_path / "again") == champions.folder_digest(first[1] / "out")


def test_two_processes_give_the_bytes_of_one(
    world: dict[str, Path], first: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "helps", lambda _: False)
    monkeypatch.setattr(ACCOUNT, "processes", 1)  # `first` has had two in this one
    run(world, tmp_path / "one")
    assert champions.folder_digest(tmp_path / "one") == champions.folder_digest(first[1] / "out")
    share, made = beside.share, list[int]()

    def count(pieces: Sequence[beside.Piece]) -> None:
        share(pieces)
        made.extend([len(pieces), len(list((tmp_path / "shared").iterdir()))])

    monkeypatch.setattr(beside, "helps", lambda _: True)
    monkeypatch.setattr(beside, "share", count)
    run(world, tmp_path / "two", shared=tmp_path / "shared")
    assert made == [9, 8]  # dpo is SFT and shares its measurement
    assert champions.folder_digest(tmp_path / "two") == champions.folder_digest(first[1] / "out")


def test_a_kept_measurement_gives_the_bytes_of_a_fresh_one(
    world: dict[str, Path], first: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, shared = first[1] / "out", tmp_path / "shared"
    run(world, tmp_path / "one", shared=shared)
    kept = sorted(shared.iterdir())
    assert [path.name.split("-")[0] for path in kept] == ["best_of_n", *["policy"] * 4, *["selection"] * 3]
    for path in (kept[0], kept[1]):  # as a kill in the middle of a write, or a bad disk, would leave them
        path.write_bytes(path.read_bytes()[:-20])
    measured: list[object] = []
    monkeypatch.setattr(beside, "helps", lambda _: False)  # this process alone is watched
    load = measurements.load_policy
    monkeypatch.setattr(
        measurements, "load_policy", lambda folder, *over: measured.append(folder) or load(folder, *over)
    )
    run(world, tmp_path / "two", shared=shared)
    assert len(measured) == 1  # the torn one; dpo is SFT and shares its measurement
    run(world, tmp_path / "three", shared=shared)
    assert len(measured) == 1
    for out in ("one", "two", "three"):
        assert digest(tmp_path / out) == digest(fresh), out
    assert sorted(shared.iterdir()) == kept


def test_what_decides_the_numbers_decides_the_key(world: dict[str, Path], tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    run(world, tmp_path / "one", shared=shared)
    before = {path.name for path in shared.iterdir()}
    other = make_prompts(tmp_path / "eval", "eval", {**META, "args": {**META["args"], "name": "otto"}})
    rm = tmp_path / "rm"
    RewardModel(new_policy(Chat.from_words(WORDS), 7, hidden_size=16, num_layers=1, num_heads=2), 7).save(rm)
    for name, given, config in (
        ("questions", {**world, "eval_prompts": other}, CONFIG),
        ("scorer", {**world, "held_out_rm": rm}, CONFIG),
        ("drawing", world, CONFIG.model_copy(update={"samples_per_prompt": 3})),
    ):
        run(given, tmp_path / name, config, shared=shared)
        made = {path.name for path in shared.iterdir()} - before
        assert sum(path.startswith("policy-") for path in made) == 4, name
        before |= made


def test_any_policy_by_any_name_is_compared_and_shown(world: dict[str, Path], tmp_path: Path) -> None:
    others = {name: path for name, path in world.items() if name not in ("rejection_sampling", "rl", "dpo")}
    config = CONFIG.model_copy(update={"differences": ["round_2 - round_1", "round_2 - absent"]})
    policies = {"round_1": world["rl"], "round_2": world["rejection_sampling"], "round_2_control": world["dpo"]}
    (tmp_path / "shared").mkdir()
    evaluate(
        config, generation=GENERATION, seed=0, policies=policies, out=tmp_path / "out", shared=tmp_path / "shared",
        log=Log(tmp_path / "journal", "evaluate"), **others,
    )  # fmt: skip
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(scores["selection"]["policies"]) == {"round_1", "round_2"}
    assert set(scores["differences"]) == {"sft", "round_1"}
    samples = json.loads((tmp_path / "journal" / "files" / "samples.json").read_text())
    assert list(samples[0]) == ["prompt", "base", "sft", "round_1", "round_2", "round_2_control"]
    for name in ("champion", "two words", "../x"):
        with pytest.raises(PreflowError, match=r"cannot name a policy"):
            evaluate(
                config, generation=GENERATION, seed=0, policies={name: world["rl"]}, out=tmp_path / "no",
                shared=tmp_path / "shared", log=Log.null(), **others,
            )  # fmt: skip


def crown(world: dict[str, Path], first: tuple[dict[str, Any], Path], folder: Path) -> dict[str, Path]:
    scores, run_folder = first
    kept = champions.Champion(version=1, ref="refs/preflow/x", digests=champions.digests_of(scores))
    champions.write_champion(folder, kept, run_folder / "out" / "completions" / "rl.jsonl")
    return {**world, "champion": folder}


def test_a_champion_is_scored_from_its_kept_answers_as_if_its_weights_were_here(
    world: dict[str, Path], first: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    scores = run(crown(world, first, tmp_path / "champion"), tmp_path / "out")
    champion, rl = scores["policies"]["champion"], scores["policies"]["rl"]
    for field in (*FIELDS, "held_out_reward", "greedy_gold_reward"):
        assert champion[field] == rl[field], field
    assert champion["nll"] is None  # only its weights could tell
    assert scores["differences"]["champion"]["rl"]["gold_reward"]["mean"] == 0.0
    result = decide_on(scores)
    assert result["against"] == "champion"
    assert result["promote"] is False  # nobody beats himself


def decide_on(scores: dict[str, Any]) -> dict[str, Any]:
    return decide(Gate(candidate="rl"), scores, trusted(), {"eval": {"rows": 6, "set_aside": 0}})


def test_a_champion_of_other_prompts_is_refused_until_it_is_sampled_on_these(
    world: dict[str, Path], first: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    given = crown(world, first, tmp_path / "champion")
    given["eval_prompts"] = make_prompts(tmp_path / "eval", "eval", META, count=5)
    with pytest.raises(PreflowError, match=r"champion version 1 answered evaluation set .* tasks.champion"):
        run(given, tmp_path / "refused")
    champions.resample(
        CONFIG,
        generation=GENERATION,
        seed=0,
        policy=world["rl"],
        eval_prompts=given["eval_prompts"],
        champion=given["champion"],
    )
    scores = run(given, tmp_path / "out")
    assert scores["champion"]["resampled"] is True
    assert scores["policies"]["champion"]["reward"] == scores["policies"]["rl"]["reward"]


def test_policies_of_different_tokenizers_are_not_compared(world: dict[str, Path], tmp_path: Path) -> None:
    other = make_policy(tmp_path / "rl", 4, words=[*WORDS, "more"])
    with pytest.raises(PreflowError, match="rl: tokenizer or template differ from SFT's"):
        run({**world, "rl": other}, tmp_path / "out")


def test_too_few_val_prompts_are_said_with_the_knob(world: dict[str, Path], tmp_path: Path) -> None:
    few = make_prompts(tmp_path / "prompts", "val", META, count=1)
    with pytest.raises(PreflowError, match=r"fewer than 2 rows in val.*shares of `prepare`"):
        run({**world, "prompts": few}, tmp_path / "out")


def test_the_candidate_is_chosen_on_prompts_that_rl_did_not_look_at(
    world: dict[str, Path], first: tuple[dict[str, Any], Path]
) -> None:
    rows = list(read_rows(world["prompts"] / "val.jsonl"))
    halves = {use: [row["id"] for row in val_half(rows, use)] for use in ("rl", "selection")}  # type: ignore[arg-type]
    assert sorted(halves["rl"] + halves["selection"]) == [row["id"] for row in rows]
    assert first[0]["selection"]["prompts"] == len(halves["selection"]) < len(rows)


def test_what_the_model_has_no_room_for_is_dropped_and_counted(world: dict[str, Path], tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_batch_tokens": 60})
    long = " ".join(WORDS * 30)  # 300 tokens; the model has 256 positions
    make_prompts(tmp_path / "eval", "eval", META)
    extra = {"id": "eval9", "messages": [{"role": "user", "content": long}], "meta": META}
    write_rows(tmp_path / "eval" / "more.jsonl", [extra])
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": " ".join(WORDS * 6)}]  # over 60
    known = list(read_rows(world["demonstrations"] / "val.jsonl"))
    write_rows(tmp_path / "demonstrations" / "val.jsonl", [*known, {"id": "long", "messages": talk}])
    given = {**world, "eval_prompts": tmp_path / "eval", "demonstrations": tmp_path / "demonstrations"}
    scores = run(given, tmp_path / "out", config)
    assert scores["evaluation_set"]["prompts"] == 6
    assert scores["dropped"]["eval_prompts_dropped_long"] == 1
    assert scores["dropped"]["demonstrations_dropped_long"] == 1


def test_answers_that_may_not_go_into_a_pass_are_said_before_anything_is_sampled(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<bos> <user> evening , <bot>, and 6 tokens of an answer."""
    monkeypatch.setattr("tasks.measurements.answer", None)
    config = CONFIG.model_copy(update={"max_batch_tokens": 9})
    with pytest.raises(PreflowError, match=r"may take 11 tokens .*evaluate\.max_batch_tokens is 9: raise it to 11"):
        run(world, tmp_path / "out", config)


def test_a_champion_without_an_answer_is_said(
    world: dict[str, Path], first: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    scores, run_folder = first
    answers = list(read_rows(run_folder / "out" / "completions" / "rl.jsonl"))[1:]
    write_rows(tmp_path / "rl.jsonl", answers)
    kept = champions.Champion(version=1, ref="x", digests=champions.digests_of(scores))
    champions.write_champion(tmp_path / "champion", kept, tmp_path / "rl.jsonl")
    with pytest.raises(PreflowError, match=r"no answer to 1 of 6 evaluation prompts \(first: eval0\)"):
        run({**world, "champion": tmp_path / "champion"}, tmp_path / "out")


@pytest.mark.parametrize("sizes", [[], [0, 1]])
def test_sizes_of_best_of_n_are_some_and_above_zero(sizes: list[int]) -> None:
    with pytest.raises(PreflowError, match=r"evaluate\.best_of_n"):
        Evaluate.parse({"best_of_n": sizes}, "evaluate")


def test_a_half_of_val_that_is_too_small_is_said_with_the_knob(world: dict[str, Path], tmp_path: Path) -> None:
    rows = list(read_rows(world["prompts"] / "val.jsonl"))
    few = [*val_half(rows, "rl"), *val_half(rows, "selection")[:1]]
    write_rows(tmp_path / "prompts" / "val.jsonl", few)
    with pytest.raises(PreflowError, match=r"1 of 1 prompts are left.*shares of `prepare`"):
        run({**world, "prompts": tmp_path / "prompts"}, tmp_path / "out")
