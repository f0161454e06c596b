"""Stage `reward_model`: two Bradley-Terry models on disjoint prompts, −log σ(r(chosen) − r(rejected)).

In: the SFT policy, whose weights both start from, pairs and prompts. Out: `policy_rm/`, which may be optimised,
`held_out_rm/`, which never is and shows when the first one is being gamed, and `metrics.json` with `trusted`, the
`checks` behind it and the reasons if not, decided on `val` pairs (RLHF book, chapters 5 and 14). Scores are normalised
to mean 0 and standard deviation 1 on fresh samples of the SFT policy. With `ensemble` above 1 each of the two is
several models, kept in its folder under `members/`. What to look at: `accuracy` on the held-out `eval` pairs beside its
`ceiling`, `calibration_error`, `length_correlation`, `by_length_difference`, agreement with gold where known.

    python -m tasks.reward_model --help
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf import distributed
from rlhf.comparisons import by_prompt
from rlhf.errors import PreflowError
from rlhf.models import Policy, RewardModel, load_policy, trainable
from rlhf.models.ensembles import RewardEnsemble, load_reward_model
from rlhf.records import Row, read_rows, write_json
from rlhf.reward_report import padding_gap, report, score_pairs
from rlhf.reward_training import normalise_on
from rlhf.scoring import by_batch
from rlhf.seeding import derive
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel as Config
from tasks.config.training import FULL, Training
from tasks.journal import Log
from tasks.prompts import check_answers, check_room, usable_prompts
from tasks.reward_checks import checks, reason
from tasks.reward_figures import show
from tasks.reward_fits import fit_member
from tasks.sampling import sample_prompts
from tasks.stage import main

Samples = Sequence[tuple[list[int], list[int]]]
"""(prompt ids, completion ids) of each."""
Model = RewardModel | RewardEnsemble

HALVES = {"policy_rm": "policy", "held_out_rm": "held_out"}
NUM_SAMPLES = 256
"""Prompts answered once by the SFT policy, to find the mean and the spread of scores."""
NUM_REREAD = 32
"""Samples that a saved model must score as it did before it was saved."""


def reward_model(
    config: Config,
    *,
    generation: Generation,
    training: Training = FULL,
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

    def member(name: str, rows: Sequence[Row]) -> RewardModel:
        begun = trainable(policy, training, seed, name, start)
        model = RewardModel(begun, derive(seed, name), config.reads)  # heads of their own, so that no two err alike
        compared = by_prompt(begun.chat, rows)
        fit_member(config, model, compared, seed=seed, name=name, scratch=scratch, log=log, training=training)
        normalise_on(model, samples, config.max_batch_tokens)
        return model

    reports: dict[str, dict[str, Any]] = {}
    verdicts: list[dict[str, Any]] = []
    for name, half in HALVES.items():
        own = [row for row in rows["train"] if row["half"] == half]
        model = _train(config, own, samples, name, member)
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
        _save(config, model, samples, out / name)
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
    rows: Sequence[Row],
    samples: Samples,
    name: str,
    member: Callable[[str, Sequence[Row]], RewardModel],
) -> Model:
    """One reward model, or an ensemble of several that differ in the heads they start from."""
    if config.margin_coef and not any(row.get("margin") for row in rows):
        raise PreflowError(
            f"reward_model.margin_coef is {config.margin_coef} and 0 of {len(rows)} pairs of {name} have a margin: "
            "set it to 0, or give pairs their `margin`"
        )
    members = [member(one, rows) for one in (name, *(f"{name}-{number}" for number in range(1, config.ensemble)))]
    if config.ensemble == 1:
        return members[0]
    together = RewardEnsemble(members, config.combine)
    normalise_on(together, samples, config.max_batch_tokens)
    return together


def _save(config: Config, model: Model, samples: Samples, folder: Path) -> None:
    """Write the model and read it again. Raises PreflowError where it then scores otherwise: a head may be lost."""
    model.save(folder)
    if distributed.group().rank > 0:
        return  # it has written nothing that it could read
    again = load_reward_model(folder, model.policy)
    some = samples[:NUM_REREAD]
    before, after = (by_batch(one, some, model.chat.pad_id, config.max_batch_tokens) for one in (model, again))
    if not torch.allclose(before, after, rtol=0.0, atol=1e-3):
        raise PreflowError(
            f"{folder.name} scores {len(some)} samples up to {(before - after).abs().max():.3g} standard deviations "
            "otherwise when it is read again, expected 0: what was saved is not what was trained; run the stage again"
        )


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
