"""What the champion answered, as `evaluate` compares it: scored by this run's scorers, without its weights."""

from pathlib import Path
from typing import Any

from rlhf.answers import Answers, from_rows
from rlhf.errors import PreflowError
from rlhf.evaluation import Exam, mark
from tasks.champion import Champion, read_completions
from tasks.measurements import Measured


def measured(exam: Exam, incumbent: Champion, folder: Path, asked: str, chat: str) -> Measured:
    """What the champion answered, by this run's scorers; what only its weights could tell is None."""
    answers, greedy = _answers(exam, incumbent, folder, asked, chat)
    return Measured(answers, greedy, mark(exam, answers, greedy) | {"nll": None})


def _answers(exam: Exam, incumbent: Champion, folder: Path, asked: str, chat: str) -> tuple[Answers, Answers]:
    """What the champion answered, to be scored by this run's scorers. Raises PreflowError for other prompts."""
    answered = incumbent.digests["evaluation_set"]
    if answered != asked:
        raise PreflowError(
            f"champion version {incumbent.version} answered evaluation set {answered}, this run asks {asked}; sample "
            "it again: python -m tasks.champion --policy ITS_POLICY --eval-prompts data/03_validated/eval --champion "
            f"{folder}"
        )
    kept = {row["id"]: row for row in read_completions(folder)}
    if missing := [question["id"] for question in exam.questions if question["id"] not in kept]:
        raise PreflowError(
            f"champion version {incumbent.version} has no answer to {len(missing)} of {len(exam.questions)} evaluation "
            f"prompts (first: {missing[0]}), which were too long for it: lower validate.max_prompt_chars"
        )
    ordered = [kept[question["id"]] for question in exam.questions]
    return from_rows(ordered, exam.chat, same_chat=incumbent.digests["chat"] == chat)


def about(incumbent: Champion) -> dict[str, Any]:
    """What scores.json says of the champion."""
    return {
        "version": incumbent.version,
        "resampled": incumbent.resampled,
        "base": incumbent.digests["base"],
    }
