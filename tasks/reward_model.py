"""Stage `reward_model`: two Bradley-Terry models on disjoint prompts, −log σ(r(chosen) − r(rejected)).

In: the SFT policy, whose weights both start from, pairs and prompts. Out: `policy_rm/`, which may be optimised,
`held_out_rm/`, which never is and shows when the first one is being gamed, and `metrics.json` with `trusted` and the
reasons if not, decided on `val` pairs (RLHF book, chapters 5 and 14). Scores are normalised to mean 0 and standard
deviation 1 on fresh samples of the SFT policy. What to look at: `accuracy` on the held-out `eval` pairs beside its
`ceiling`, `calibration_error`, `length_correlation`, agreement with gold where known.

    python -m tasks.reward_model --help
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.checkpoints import Checkpoints
from rlhf.comparisons import Comparisons, by_prompt
from rlhf.errors import PreflowError
from rlhf.models import Policy, RewardModel, load_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.records import Row, read_rows, write_json
from rlhf.reward_report import report, score_pairs
from rlhf.reward_training import fit_reward_model, normalise_on
from rlhf.sampler import sample
from rlhf.seeding import derive
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel as Config
from tasks.journal import Log
from tasks.prompts import usable_prompts
from tasks.stage import main

Samples = Sequence[tuple[list[int], list[int]]]
"""(prompt ids, completion ids) of each."""

HALVES = {"policy_rm": "policy", "held_out_rm": "held_out"}
NUM_SAMPLES = 256
"""Prompts answered once by the SFT policy, to find the mean and the spread of scores."""


def reward_model(
    config: Config,
    *,
    generation: Generation,
    seed: int,
    policy: Path,
    prompts: Path,
    pairs: Path,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Train both models and report on both; the first lines of the module name the files."""
    rows = {split: list(read_rows(pairs / f"{split}.jsonl")) for split in ("train", "val", "eval")}
    measured_on, judged_on = _splits(rows)
    samples = _samples(generation, load_policy(policy), prompts, seed)
    reports: dict[str, dict[str, Any]] = {}
    reasons: list[str] = []
    for name, half in HALVES.items():
        own = [row for row in rows["train"] if row["half"] == half]
        model = _train(config, policy, own, samples, name, seed, scratch, log)
        found = {
            split: report(
                score_pairs(model, rows[split], generation.unfinished_reward, config.max_batch_tokens),
                rows[split],
                seed,
                model.std.item(),
            )
            for split in {measured_on, judged_on}
        }
        reasons += [f"{name}: {doubt}" for doubt in _doubts(config, found[judged_on], judged_on)]
        reports[name] = found[measured_on] | {"train_pairs": len(own)}
        if judged_on != measured_on:
            reports[name][judged_on] = found[judged_on]
        model.save(out / name)
    log({f"reward_model/{name}": value for name, value in _headline(reports).items()}, 0)
    verdict = {"trusted": not reasons, "reasons": reasons, "measured_on": measured_on, "judged_on": judged_on}
    write_json(out / "metrics.json", verdict | {"normalised_on": len(samples)} | reports)


def _splits(rows: Mapping[str, Sequence[Row]]) -> tuple[str, str]:
    """Where accuracy is reported and where trust is decided: on eval and on val, each standing in for the other."""
    held_out = [split for split in ("eval", "val") if rows[split]]
    if not held_out:
        raise PreflowError("there are 0 held-out pairs: give `prepare` a larger val_share or eval_share")
    return held_out[0], held_out[-1]


def _samples(generation: Generation, policy: Policy, prompts: Path, seed: int) -> Samples:
    """Finished completions of the SFT policy, one a prompt."""
    rows, _ = usable_prompts(read_rows(prompts / "train.jsonl"), policy, generation.max_new_tokens, limit=NUM_SAMPLES)
    encoded = [policy.chat.encode_prompt(row["messages"]) for row in rows]
    completions = sample(
        policy,
        encoded,
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        group_size=1,
        seed=derive(seed, "normalisation"),
    )
    finished = [one for one in completions if one.stop_reason == "stop"]
    if len(finished) < 2:
        raise PreflowError(
            f"{len(finished)} of {len(completions)} samples of the SFT policy came to an end within "
            f"generation.max_new_tokens={generation.max_new_tokens}, at least 2 are needed: "
            "raise it, or train sft longer"
        )
    return [(encoded[one.prompt_index], one.ids) for one in finished]


def _train(
    config: Config,
    policy: Path,
    rows: Sequence[Row],
    samples: Samples,
    name: str,
    seed: int,
    scratch: Path,
    log: Log,
) -> RewardModel:
    start = load_policy(policy)
    prompts: list[Comparisons] = by_prompt(start.chat, rows)
    model = RewardModel(start, derive(seed, name))  # heads of their own, so that the two err differently
    fit_reward_model(
        model,
        prompts,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_batch_tokens=config.max_batch_tokens,
        lm_coef=config.lm_coef,
        centring=config.centring,
        optimizer=OptimizerSettings(
            lr={"backbone": config.lr, "heads": config.head_lr},
            warmup_steps=config.warmup_steps,
            schedule="cosine",
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        ),
        seed=seed,
        name=name,
        checkpoints=Checkpoints(scratch / f"checkpoints-{name}", every=config.checkpoint_every),
        log=log,
        progress=log.progress,
    )
    normalise_on(model, samples, config.max_batch_tokens)
    return model


def _doubts(config: Config, measured: Mapping[str, Any], split: str) -> list[str]:
    """Why a model is not trusted; empty where it is."""
    accuracy = measured["accuracy"]["mean"]
    error, length = measured["calibration_error"], abs(measured["length_correlation"])
    doubts = []
    if accuracy < config.min_accuracy:
        doubts.append(f"{split} accuracy {accuracy:.3f} is below reward_model.min_accuracy {config.min_accuracy}")
    if error > config.max_calibration_error:
        doubts.append(f"calibration error {error:.3f} is above max_calibration_error {config.max_calibration_error}")
    if length > config.max_length_correlation:
        doubts.append(
            f"|correlation with length| {length:.3f} is above max_length_correlation {config.max_length_correlation}"
        )
    return doubts


def _headline(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found = {f"{name}_accuracy": measured["accuracy"]["mean"] for name, measured in reports.items()}
    optimised = reports["policy_rm"]
    for key in ("ceiling", "calibration_error", "length_correlation", "gold_agreement", "gold_correlation"):
        if optimised.get(key) is not None:
            found[key] = optimised[key]
    return found


if __name__ == "__main__":
    main(reward_model)
