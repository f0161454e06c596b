"""Stage `evaluate`: every policy on the same held-out prompts, with the same random numbers, by the same scorers.

In: base, SFT and any other policies by name, reward models where there are any, evaluation prompts, the half of the val
prompts that rl did not look at (for the choice of the gate's candidate only), held-out demonstrations, the champion's
answers, and a lexicon where `evaluate.rewards` has sentiment. Policies whose name ends in `control` are shown and never
put forward. Out: `scores.json` (means, win rates and
paired differences with 95% intervals over prompts; null where nobody can tell), `curves.json` (reward against KL,
best-of-n) and `completions/<policy>.jsonl`.
The judge of win rates is the gold reward where it is known, else the reward model that was never optimised, else the
rules of `evaluate.rewards`.

    python -m tasks.evaluate --help
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.answers import to_rows
from rlhf.comparison import GIVEN, candidates_of, differences, frontier, interval, pairs_of, standings
from rlhf.errors import PreflowError
from rlhf.evaluation import Exam, Values
from rlhf.models import Policy, load_policy, room
from rlhf.models.ensembles import load_reward_model
from rlhf.records import Row, read_rows, val_half, write_json, write_rows
from rlhf.rewards import Score
from rlhf.scoring import Scorer
from rlhf.statistics import correlation
from tasks import beside, champion_answers
from tasks import champion as champions
from tasks import evaluation_figures as figures
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tasks.graph import digest
from tasks.journal import Log
from tasks.measurements import Measured, Measurements
from tasks.prompts import Fitting, check_answers, fitting, prefixed, usable_prompts
from tasks.rewards import build
from tasks.stage import main


def evaluate(
    config: Evaluate,
    *,
    generation: Generation,
    seed: int,
    base: Path,
    sft: Path,
    policies: dict[str, Path],
    policy_rm: Path | None = None,
    held_out_rm: Path | None = None,
    prompts: Path,
    eval_prompts: Path,
    demonstrations: Path | None = None,
    lexicon: Path | None = None,
    champion: Path,
    out: Path,
    shared: Path,
    log: Log,
) -> None:
    """Sample, score and compare all policies; the first lines of the module name the files."""
    folders = _named(base, sft, policies)
    origin = _origin(folders, policy_rm, held_out_rm)
    questions = champions.evaluation_set(eval_prompts, config, generation)
    reference = load_policy(sft)
    models = (reference, _scorer(policy_rm, reference), _scorer(held_out_rm, reference))
    rules = _rules(config, generation, models[0], lexicon)
    exam, dropped = _exam(config, generation, seed, questions.prompts, models, rules, demonstrations)
    held_out = val_half(_held_out(prompts, "val"), "selection")
    choice, choice_dropped = _usable(held_out, exam.reference, generation, config.num_selection_prompts)
    for asked in (exam.questions, choice):
        check_answers(asked, exam.reference, generation.max_new_tokens, config.max_batch_tokens, "evaluate")
    chosen_on, judge = exam.about(choice), exam.judge()
    candidates = candidates_of(folders)
    measurements = Measurements(
        shared, {"reference": champions.folder_digest(sft), "rules": _digest(config, lexicon), **origin["scorers"]}
    )
    done = _counter(log, total=len(folders) + len(candidates) + 1)

    first = exam.about(exam.questions[: config.best_of_n_prompts])
    curve_of = partial(measurements.best_of_n, first, config.best_of_n, seed, config.bootstrap_samples)
    if beside.helps(sft):  # what is measured there is found below
        examined = [partial(measurements.policy, exam, folder) for folder in folders.values()]
        chosen = [partial(measurements.selection, chosen_on, folders[name]) for name in candidates]
        beside.share([curve_of, *examined, *chosen])
    measured = {}
    for name, folder in folders.items():
        measured[name] = measurements.policy(exam, folder)
        done()
    incumbent = champions.read_champion(champion)
    if incumbent is not None:
        measured["champion"] = champion_answers.measured(exam, incumbent, champion, questions.digest, origin["chat"])
    selected = {}
    for name in candidates:
        selected[name] = interval(measurements.selection(chosen_on, folders[name]), seed, config.bootstrap_samples)
        done()
    curve = curve_of()
    done()

    scores = _scores(config, {name: one.values for name, one in measured.items()}, judge, seed) | origin
    scores["selection"] = {"split": "val", "judge": chosen_on.judge(), "prompts": len(choice), "policies": selected}
    scores["evaluation_set"] = _about_set(config, generation, questions.digest, len(exam.questions))
    scores["dropped"] = dropped | prefixed(choice_dropped, "val_prompts")
    scores["champion"] = None if incumbent is None else champion_answers.about(incumbent)
    curves = {"policies": frontier(scores["policies"]), "best_of_n": curve}
    _write(out, log, scores, curves, {name: _rows(exam, one) for name, one in measured.items()})


def _write(out: Path, log: Log, scores: dict[str, Any], curves: dict[str, Any], rows: Mapping[str, list[Row]]) -> None:
    write_json(out / "scores.json", scores)
    write_json(out / "curves.json", curves)
    for name, answered in rows.items():
        write_rows(out / "completions" / f"{name}.jsonl", answered)
    figures.show(log, scores, curves, rows)


def _named(base: Path, sft: Path, policies: Mapping[str, Path]) -> dict[str, Path]:
    """All policies by name. Raises PreflowError for names that are taken, or that no file can have."""
    if wrong := [name for name in policies if name in GIVEN or not name.replace("-", "_").isidentifier()]:
        raise PreflowError(
            f"--policies: {', '.join(wrong)} cannot name a policy: {', '.join(GIVEN)} are taken, and other names begin "
            "with a letter and go on with letters, digits, _ and -"
        )
    return {"base": base, "sft": sft, **policies}


def _scorer(folder: Path | None, reference: Policy) -> Scorer | None:
    return None if folder is None else load_reward_model(folder, reference)


def _rules(config: Evaluate, generation: Generation, policy: Policy, lexicon: Path | None) -> Score | None:
    if config.rewards is None:
        return None
    return build(config.rewards, generation, None, policy.chat, lexicon=lexicon)


def _digest(config: Evaluate, lexicon: Path | None) -> str | None:
    """Of what the rules are."""
    if config.rewards is None:
        return None
    return "".join([config.rewards.model_dump_json(), "" if lexicon is None else digest(lexicon)])


def _origin(folders: Mapping[str, Path], policy_rm: Path | None, held_out_rm: Path | None) -> dict[str, Any]:
    """Digests of what scores depend on besides the policies. Raises PreflowError where policies differ in template."""
    chats = {name: champions.chat_digest(folder) for name, folder in folders.items()}
    if other := [name for name, digest in chats.items() if digest != chats["sft"]]:
        raise PreflowError(
            f"{', '.join(other)}: tokenizer or template differ from SFT's; train them from this run's base"
        )
    return {
        "base": champions.folder_digest(folders["base"]),
        "chat": chats["sft"],
        "scorers": {
            name: None if folder is None else champions.folder_digest(folder)
            for name, folder in (("policy_rm", policy_rm), ("held_out_rm", held_out_rm))
        },
    }


def _exam(
    config: Evaluate,
    generation: Generation,
    seed: int,
    questions: Sequence[Row],
    models: tuple[Policy, Scorer | None, Scorer | None],
    rules: Score | None,
    demonstrations: Path | None,
) -> tuple[Exam, dict[str, float]]:
    """The examination by SFT and both reward models, and how many of its rows the model has no room for."""
    reference, policy_rm, held_out_rm = models
    asked, dropped = _usable(questions, reference, generation, len(questions))
    stable: Fitting[Any] = Fitting([], {})
    if demonstrations is not None:
        stable = _stable(demonstrations, reference, config.max_batch_tokens)
    exam = Exam(
        questions=asked,
        stable=[row["messages"] for row, _ in stable.kept[: config.num_demonstrations]],
        drawing=champions.drawing_of(config, generation, seed),
        reference=reference,
        policy_rm=policy_rm,
        held_out_rm=held_out_rm,
        unfinished_reward=generation.unfinished_reward,
        max_batch_tokens=config.max_batch_tokens,
        rules=rules,
    )
    return exam, prefixed(dropped, "eval_prompts") | prefixed(stable.dropped, "demonstrations")


def _usable(
    rows: Sequence[Row], policy: Policy, generation: Generation, most: int
) -> tuple[list[Row], dict[str, float]]:
    """Prompts that leave room for an answer, at most so many, and what was dropped."""
    usable, dropped = usable_prompts(rows, policy, generation.max_new_tokens, limit=most) if rows else ([], {})
    if len(usable) < 2:
        raise PreflowError(
            f"{len(usable)} of {len(rows)} prompts are left, an interval needs 2 or more: add data, raise the shares "
            "of `prepare`, or lower generation.max_new_tokens"
        )
    return usable, dropped


def _stable(folder: Path, policy: Policy, max_batch_tokens: int) -> Fitting[tuple[list[int], list[bool]]]:
    """Held-out demonstrations that the model has positions for, and a forward pass room."""
    return fitting(
        "held-out demonstrations",
        _held_out(folder, "eval", "val"),
        policy.chat,
        lambda row: policy.chat.encode_conversation(row["messages"]),
        lambda encoded: len(encoded[0]),
        min(room(policy.model), max_batch_tokens),
        "positions of the model: base.max_tokens, or evaluate.max_batch_tokens",
    )


def _held_out(folder: Path, *splits: str) -> list[Row]:
    """The rows by id of the first of `splits` that has any (ids are hashes: a fixed random order)."""
    for split in splits:
        path = folder / f"{split}.jsonl"
        rows = sorted(read_rows(path), key=lambda row: row["id"]) if path.exists() else []
        if len(rows) >= 2:
            return rows
    raise PreflowError(
        f"{folder} has fewer than 2 rows in {' and '.join(splits)}, evaluation needs 2 or more: add data, or raise the "
        "shares of `prepare`"
    )


def _rows(exam: Exam, measured: Measured) -> list[Row]:
    kept = {name: measured.values[name] for name in ("gold_reward", "reward", "held_out_reward", "rule_reward")}
    return to_rows(exam.questions, measured.answers, measured.greedy, kept)


def _scores(config: Evaluate, measured: Mapping[str, Mapping[str, Values]], judge: str, seed: int) -> dict[str, Any]:
    flat = {name: values.ravel() for name, values in measured["sft"].items() if values is not None}
    further = [(one, other) for one, other in (pair.split(" - ") for pair in config.differences)]
    return {
        "judge": judge,
        "policies": standings(measured, judge, seed, config.bootstrap_samples),
        "differences": differences(measured, pairs_of(list(measured), further), seed, config.bootstrap_samples),
        "reward_on_sft": {  # what the optimised reward goes along with, on answers it was not trained on
            f"correlation_with_{name}": correlation(flat["reward"], flat[name])
            for name in ("gold_reward", "held_out_reward", "length")
            if name in flat and "reward" in flat
        },
    }


def _about_set(config: Evaluate, generation: Generation, digest: str, prompts: int) -> dict[str, Any]:
    settings = generation.model_dump(include={"temperature", "max_new_tokens"})
    about = {"digest": digest, "split": "eval", "prompts": prompts, "samples_per_prompt": config.samples_per_prompt}
    return about | settings


def _counter(log: Log, total: int) -> Callable[[], None]:
    count = iter(range(1, total + 1))
    return lambda: log.progress(next(count), total)


if __name__ == "__main__":
    main(evaluate)
