"""Stage `trajectory`: the over-optimisation report, what a reward says and what is so along an RL run.

In: SFT, the policies of an RL run's looks (`rl.keep_looks`) and its metrics, other policies by name, both reward
models, evaluation prompts. Out: `trajectory.json`: for each look the optimised reward, the held-out one, gold (null
where unknown) and KL to SFT on `eval` with 95% intervals over prompts; the same of the other policies, and best-of-n of
SFT. Without looks it measures the other policies alone.
What to look at: along the run the reward only rises; where gold turns, over-optimisation begins (Gao et al.,
2210.10760; RLHF book, chapter 14). `verdict` says what the look that was kept is worth beside the best one. The run
itself chose and stopped by the held-out reward on `val`: it saw neither these prompts nor gold.

    python -m tasks.trajectory --help
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.comparison import by_prompt, interval
from rlhf.errors import PreflowError
from rlhf.evaluation import Exam, Values
from rlhf.models import load_policy
from rlhf.models.ensembles import load_reward_model
from rlhf.records import write_json
from rlhf.statistics import paired_bootstrap
from tasks import champion as champions
from tasks import overoptimisation_figures as figures
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tasks.config.trajectory import Trajectory
from tasks.journal import Log
from tasks.measurements import Measurements
from tasks.prompts import usable_prompts
from tasks.stage import main

METRICS = ("reward", "held_out_reward", "gold_reward", "kl", "length", "stop_rate")


def trajectory(
    config: Trajectory,
    *,
    evaluate: Evaluate,
    generation: Generation,
    seed: int,
    sft: Path,
    policies: dict[str, Path],
    policy_rm: Path,
    held_out_rm: Path,
    eval_prompts: Path,
    out: Path,
    shared: Path,
    log: Log,
    looks: Path | None = None,
    rl_metrics: Path | None = None,
) -> None:
    """Examine every look and policy alike; the first lines of the module name the files."""
    exam = _exam(config, evaluate, generation, seed, sft, policy_rm, held_out_rm, eval_prompts)
    digests = {"reference": sft, "policy_rm": policy_rm, "held_out_rm": held_out_rm}
    measurements = Measurements(shared, {name: champions.folder_digest(path) for name, path in digests.items()})
    run = _looks(looks, rl_metrics)
    log.progress(0, len(run) + len(policies) + 1)

    found: dict[str, Mapping[str, Values]] = {}
    for number, (name, folder) in enumerate([*run.items(), *policies.items()], 1):
        found[name] = measurements.policy(exam, folder).values
        log.progress(number, len(run) + len(policies) + 1)
    first = exam.about(exam.questions[: config.best_of_n_prompts])
    curve = measurements.best_of_n(first, config.best_of_n, seed, evaluate.bootstrap_samples)

    def point(values: Mapping[str, Values]) -> dict[str, Any]:
        means = {name: interval(values[name], seed, evaluate.bootstrap_samples) for name in METRICS}
        kl = means["kl"]
        assert kl is not None
        return {"sqrt_kl": math.sqrt(max(kl["mean"], 0.0)), **means}

    result: dict[str, Any] = {
        "split": "eval",
        "prompts": len(exam.questions),
        "samples_per_prompt": evaluate.samples_per_prompt,
        "looks": [{"update": int(name)} | point(found[name]) for name in run],
        "policies": {name: point(found[name]) for name in policies},
        "best_of_n": curve,
        "verdict": _verdict(rl_metrics, {name: found[name] for name in run}, seed, evaluate.bootstrap_samples),
    }
    write_json(out / "trajectory.json", result)
    figures.show(log, result)


def _exam(
    config: Trajectory,
    evaluate: Evaluate,
    generation: Generation,
    seed: int,
    sft: Path,
    policy_rm: Path,
    held_out_rm: Path,
    eval_prompts: Path,
) -> Exam:
    """The examination of stage `evaluate`, on fewer prompts and without its demonstrations."""
    reference = load_policy(sft)
    rows = champions.evaluation_set(eval_prompts, evaluate, generation).prompts
    usable, _ = usable_prompts(rows, reference, generation.max_new_tokens, limit=config.num_prompts)
    if len(usable) < 2:
        raise PreflowError(
            f"{len(usable)} of {len(rows)} evaluation prompts are left, an interval needs 2 or more: add data, or "
            "lower generation.max_new_tokens"
        )
    return Exam(
        questions=usable,
        stable=[],
        drawing=champions.drawing_of(evaluate, generation, seed),
        reference=reference,
        policy_rm=load_reward_model(policy_rm, reference),
        held_out_rm=load_reward_model(held_out_rm, reference),
        unfinished_reward=generation.unfinished_reward,
        max_batch_tokens=evaluate.max_batch_tokens,
    )


def _looks(folder: Path | None, rl_metrics: Path | None) -> dict[str, Path]:
    """Policy folders by update as four digits, in order; none where there was no RL run."""
    if (folder is None) != (rl_metrics is None):
        raise PreflowError("--looks and --rl-metrics belong together: give both, or neither")
    if folder is None:
        return {}
    looks = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    found = {path.name: path for path in looks}
    if not found:
        raise PreflowError(f"{folder} holds 0 policies, expected one a look: set rl.keep_looks to true")
    return found


def _verdict(
    rl_metrics: Path | None, looks: Mapping[str, Mapping[str, Values]], seed: int, samples: int
) -> dict[str, Any] | None:
    """What the kept look and the last one are worth beside the one with the highest gold; null without gold or looks.

    `gold_share` is gold of the kept one in units of the highest; differences are paired over prompts.
    """
    if rl_metrics is None or any(values["gold_reward"] is None for values in looks.values()):
        return None
    told = json.loads(rl_metrics.read_text(encoding="utf-8"))
    gold = {name: float(by_prompt(values["gold_reward"]).mean()) for name, values in looks.items()}
    kept, last, highest = f"{int(told['kept']):04d}", max(looks, key=int), max(gold, key=lambda name: gold[name])

    def beside(name: str, metric: str) -> dict[str, float]:
        one, other = (by_prompt(looks[which][metric]) for which in (name, highest))
        return paired_bootstrap(one, other, seed, samples).as_dict()

    return {
        "kept": int(kept),
        "stopped_early": told["stopped_early"],
        "highest_gold": int(highest),
        "gold_share": gold[kept] / gold[highest] if gold[highest] > 0 else None,
        "kept_minus_highest": beside(kept, "gold_reward"),
        "last": int(last),
        "last_minus_highest": {
            metric: beside(last, metric) for metric in ("gold_reward", "held_out_reward", "reward", "kl")
        },
    }


if __name__ == "__main__":
    main(trajectory)
