"""Stage `reward_model`: two Bradley-Terry models on disjoint prompts, −log σ(r(chosen) − r(rejected)).

In: the SFT policy, whose weights both start from, and pairs. Out: `policy_rm/`, which may be optimised, `held_out_rm/`,
which never is and shows when the first one is being gamed, and `metrics.json` with `trusted` and the reasons if not
(RLHF book, chapters 5 and 14). Scores are normalised to mean 0 and standard deviation 1 on sampled completions. What to
look at: `accuracy` beside its `ceiling`, `calibration_error`, `length_correlation`, agreement with gold where known.

    python -m tasks.reward_model --help
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.checkpoints import Checkpoints
from rlhf.comparisons import Comparisons, by_prompt
from rlhf.errors import PreflowError
from rlhf.models import RewardModel, load_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.records import Row, read_rows, split_of, write_json
from rlhf.reward_report import report, score_pairs
from rlhf.reward_training import fit_reward_model, normalise_on
from tasks.config.reward_model import RewardModel as Config
from tasks.journal import Log
from tasks.stage import main


def reward_model(config: Config, *, seed: int, policy: Path, pairs: Path, out: Path, scratch: Path, log: Log) -> None:
    """Train both models and report on both; the first lines of the module name the files."""
    train, held_out = list(read_rows(pairs / "train.jsonl")), _measured_on(pairs)
    halves = _halves(by_prompt(load_policy(policy).chat, train), config.policy_share)
    reports: dict[str, dict[str, Any]] = {}
    for name, prompts in halves.items():
        model = _train(config, policy, prompts, name, seed, scratch, log)
        scores = score_pairs(model, held_out, config.unfinished_reward, config.max_batch_tokens)
        reports[name] = report(scores, held_out, seed, model.std.item())
        reports[name]["train_pairs"] = sum(len(one.pairs) for one in prompts)
        model.save(out / name)
    reasons = _doubts(config, reports["policy_rm"])
    log({f"reward_model/{name}": value for name, value in _headline(reports).items()}, 0)
    write_json(out / "metrics.json", {"trusted": not reasons, "reasons": reasons} | reports)


def _measured_on(pairs: Path) -> list[Row]:
    """Held-out pairs: those of evaluation prompts, else those of val prompts."""
    for split in ("eval", "val"):
        path = pairs / f"{split}.jsonl"
        rows = list(read_rows(path)) if path.exists() else []
        if rows:
            return rows
    raise PreflowError("there are 0 held-out pairs: give `prepare` a larger eval_share or val_share")


def _halves(prompts: Sequence[Comparisons], share: float) -> dict[str, list[Comparisons]]:
    """Prompts of either model, by group, so that the two never saw the same question."""
    shares = {"train": share, "val": 1 - share}
    side = {"policy_rm": "train", "held_out_rm": "val"}
    halves = {
        name: [one for one in prompts if split_of(f"reward model {one.group}", shares) == half]
        for name, half in side.items()
    }
    for name, half in halves.items():
        if not half:
            raise PreflowError(f"{name} got 0 of {len(prompts)} prompts: more preferences are needed")
    return halves


def _train(
    config: Config, policy: Path, prompts: Sequence[Comparisons], name: str, seed: int, scratch: Path, log: Log
) -> RewardModel:
    model = RewardModel(load_policy(policy), seed)
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
    normalise_on(model, prompts, config.max_batch_tokens)
    return model


def _doubts(config: Config, measured: Mapping[str, Any]) -> list[str]:
    """Why the model that is to be optimised is not trusted; empty where it is."""
    accuracy = measured["accuracy"]["mean"]
    error, length = measured["calibration_error"], abs(measured["length_correlation"])
    doubts = []
    if accuracy < config.min_accuracy:
        doubts.append(f"held-out accuracy {accuracy:.3f} is below reward_model.min_accuracy {config.min_accuracy}")
    if error > config.max_calibration_error:
        doubts.append(f"calibration error {error:.3f} is above max_calibration_error {config.max_calibration_error}")
    if length > config.max_length_correlation:
        doubts.append(f"|correlation with length| {length:.3f} is above {config.max_length_correlation}")
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
