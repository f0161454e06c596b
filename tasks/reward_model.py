"""Stage `reward_model`: two Bradley-Terry models on disjoint prompts, −log σ(r(chosen) − r(rejected)).

In: the SFT policy, whose weights both start from, pairs and prompts. Out: `policy_rm/`, which may be optimised,
`held_out_rm/`, which never is and shows when the first one is being gamed, and `metrics.json` with `trusted`, the
`checks` behind it and the reasons if not, decided on `val` pairs (RLHF book, chapters 5 and 14). Scores are normalised
to mean 0 and standard deviation 1 on fresh samples of the SFT policy. With `ensemble` above 1 each of the two is
several models, kept in its folder under `members/`. What to look at: `accuracy` on the held-out `eval` pairs beside its
`ceiling`, `calibration_error`, `length_correlation`, `by_length_difference`, agreement with gold where known.

    python -m tasks.reward_model --help
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.checkpoints import Checkpoints
from rlhf.comparisons import by_prompt
from rlhf.errors import PreflowError
from rlhf.models import Policy, RewardModel, load_policy
from rlhf.models.ensembles import RewardEnsemble
from rlhf.optimizer import OptimizerSettings
from rlhf.records import Row, read_rows, write_json
from rlhf.reward_report import padding_gap, report, score_pairs
from rlhf.reward_training import fit_reward_model, normalise_on
from rlhf.scoring import by_batch
from rlhf.seeding import derive
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel as Config
from tasks.journal import Log
from tasks.prompts import check_answers, check_room, usable_prompts
from tasks.reward_checks import checks, reason
from tasks.reward_figures import show
from tasks.sampling import sample_prompts
from tasks.stage import main

Samples = Sequence[tuple[list[int], list[int]]]
"""(prompt ids, completion ids) of each."""
Model = RewardModel | RewardEnsemble

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
    start = load_policy(policy)
    asked = list(read_rows(prompts / "train.jsonl"))
    _check_room(config, generation, start, rows, asked)
    samples = _samples(generation, start, asked, seed)
    reports: dict[str, dict[str, Any]] = {}
    verdicts: list[dict[str, Any]] = []
    for name, half in HALVES.items():
        own = [row for row in rows["train"] if row["half"] == half]
        model = _train(config, policy, own, samples, name, seed, scratch, log)
        about = _about(config, model, samples)
        scores = {
            split: score_pairs(model, rows[split], generation.unfinished_reward, config.max_batch_tokens)
            for split in {measured_on, judged_on}
        }
        found = {split: report(scores[split], rows[split], seed, model.std.item()) for split in scores}
        verdicts += checks(config, name, found[judged_on] | about, judged_on)
        reports[name] = found[measured_on] | about | {"train_pairs": len(own)}
        if judged_on != measured_on:
            reports[name][judged_on] = found[judged_on]
        model.save(out / name)
        show(log, name, scores[measured_on], rows[measured_on], found[measured_on])
    log({f"reward_model/{name}": value for name, value in _headline(reports).items()}, 0)
    log.table("trust_checks", verdicts)
    reasons = [reason(verdict) for verdict in verdicts if not verdict["passed"]]
    verdict = {"trusted": not reasons, "reasons": reasons, "measured_on": measured_on, "judged_on": judged_on}
    write_json(out / "metrics.json", verdict | {"checks": verdicts, "normalised_on": len(samples)} | reports)


def _splits(rows: Mapping[str, Sequence[Row]]) -> tuple[str, str]:
    """Where accuracy is reported and where trust is decided: on eval and on val, each standing in for the other."""
    held_out = [split for split in ("eval", "val") if rows[split]]
    if not held_out:
        raise PreflowError("there are 0 held-out pairs: give `prepare` a larger val_share or eval_share")
    return held_out[0], held_out[-1]


def _check_room(
    config: Config, generation: Generation, policy: Policy, rows: Mapping[str, Sequence[Row]], asked: Sequence[Row]
) -> None:
    """Raises PreflowError where the completions of one prompt, which train together, or a sample exceed a pass."""
    halves = [[row for row in rows["train"] if row["half"] == half] for half in HALVES.values()]
    together = [len(one.completions) * one.longest for half in halves for one in by_prompt(policy.chat, half)]
    check_room("a prompt with all its completions", max(together, default=0), config.max_batch_tokens, "reward_model")
    alone = [one.longest for split in ("val", "eval") for one in by_prompt(policy.chat, rows[split])]
    check_room("a held-out completion", max(alone, default=0), config.max_batch_tokens, "reward_model")
    usable, _ = usable_prompts(asked, policy, generation.max_new_tokens, limit=NUM_SAMPLES)
    check_answers(usable, policy, generation.max_new_tokens, config.max_batch_tokens, "reward_model")


def _samples(generation: Generation, policy: Policy, rows: Sequence[Row], seed: int) -> Samples:
    """Finished completions of the SFT policy, one a prompt."""
    sampled = sample_prompts(
        policy, rows, generation, group_size=1, seed=derive(seed, "normalisation"), limit=NUM_SAMPLES
    )
    finished = [one for one in sampled.completions if one.stop_reason == "stop"]
    if len(finished) < 2:
        raise PreflowError(
            f"{len(finished)} of {len(sampled.completions)} samples of the SFT policy came to an end within "
            f"generation.max_new_tokens={generation.max_new_tokens}, at least 2 are needed: "
            "raise it, or train sft longer"
        )
    return [(sampled.prompts[one.prompt_index], one.ids) for one in finished]


def _train(
    config: Config,
    policy: Path,
    rows: Sequence[Row],
    samples: Samples,
    name: str,
    seed: int,
    scratch: Path,
    log: Log,
) -> Model:
    """One reward model, or an ensemble of several that differ in the heads they start from."""
    if config.margin_coef and not any(row.get("margin") for row in rows):
        raise PreflowError(
            f"reward_model.margin_coef is {config.margin_coef} and 0 of {len(rows)} pairs of {name} have a margin: "
            "set it to 0, or give pairs their `margin`"
        )
    names = [name, *(f"{name}-{number}" for number in range(1, config.ensemble))]
    members = [_member(config, policy, rows, samples, member, seed, scratch, log) for member in names]
    if config.ensemble == 1:
        return members[0]
    together = RewardEnsemble(members, config.combine)
    normalise_on(together, samples, config.max_batch_tokens)
    return together


def _member(
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
    model = RewardModel(start, derive(seed, name))  # heads of their own, so that no two err alike
    fit_reward_model(
        model,
        by_prompt(start.chat, rows),
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_batch_tokens=config.max_batch_tokens,
        lm_coef=config.lm_coef,
        centring=config.centring,
        margin_coef=config.margin_coef,
        weigh_by=config.weigh_by,
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


def _about(config: Config, model: Model, samples: Samples) -> dict[str, float]:
    """What is known without labels: rewards of the SFT policy's samples, and what padding does to them."""
    scores = by_batch(model, samples, model.chat.pad_id, config.max_batch_tokens)
    return {
        "sample_mean": scores.mean().item(),
        "sample_std": scores.std(correction=0).item(),
        "padding_gap": padding_gap(model, samples, config.max_batch_tokens),
    }


def _headline(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found = {f"{name}_accuracy": measured["accuracy"]["mean"] for name, measured in reports.items()}
    optimised = reports["policy_rm"]
    keys = ("ceiling", "calibration_error", "length_correlation", "padding_gap", "gold_agreement", "gold_correlation")
    for key in keys:
        if optimised.get(key) is not None:
            found[key] = optimised[key]
    return found


if __name__ == "__main__":
    main(reward_model)
