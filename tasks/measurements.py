"""What a policy did in an examination, kept by digest: a policy that several runs share is examined once.

The key names everything that decides the numbers: the bytes of the policy, what was asked and how, the scorers, the
code, the package versions, and threads and kernels, without which bytes are not promised. So a kept measurement is what
a fresh one would be, to the last bit; a torn or foreign file is measured anew.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf.answers import Answers, from_rows, to_rows
from rlhf.evaluation import Exam, Values, answer, best_of_n_curve, forgetting, mark, selection_score
from rlhf.models import load_policy
from tasks.closure import closure
from tasks.graph import digest

_CODE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Measured:
    """What one policy answered, and every metric of it."""

    answers: Answers
    greedy: Answers
    values: Mapping[str, Values]


@dataclass(frozen=True)
class Measurements:
    """Measures through `folder`; what is there is not measured again."""

    folder: Path
    models: Mapping[str, str | None]
    """Digests of the models of the examination, by their field of `Exam`; None where there is none."""

    def policy(self, exam: Exam, folder: Path) -> Measured:
        """Everything about the policy in `folder`."""

        def measure() -> dict[str, Any]:
            policy = load_policy(folder)
            answers, greedy = answer(exam, policy)
            values = mark(exam, answers, greedy) | {"nll": forgetting(exam, policy)}
            kept = {name: None if found is None else found.tolist() for name, found in values.items()}
            return {"rows": to_rows(exam.questions, answers, greedy, {}), "values": kept}

        found = self._once("policy", exam, {"policy": digest(folder), "stable": exam.stable}, measure)
        answers, greedy = from_rows(found["rows"], exam.chat, same_chat=True)
        values = {name: None if kept is None else np.array(kept) for name, kept in found["values"].items()}
        return Measured(answers, greedy, values)

    def selection(self, exam: Exam, folder: Path) -> np.ndarray:
        """One score a prompt [P], by which policies are chosen between."""
        found = self._once(
            "selection", exam, {"policy": digest(folder)}, lambda: selection_score(exam, load_policy(folder)).tolist()
        )
        return np.array(found)

    def best_of_n(self, exam: Exam, sizes: Sequence[int], seed: int, samples: int) -> list[dict[str, Any]]:
        """The best-of-n curve of the reference."""
        about = {"sizes": list(sizes), "seed": seed, "samples": samples}
        curve: list[dict[str, Any]] = self._once(
            "best_of_n", exam, about, lambda: best_of_n_curve(exam, sizes, seed, samples)
        )
        return curve

    def _once(self, kind: str, exam: Exam, about: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        key = _sha256({"kind": kind, "about": about, "exam": _described(exam), "models": self.models, **_machine()})
        path = self.folder / f"{kind}-{key[:32]}.json"
        text = _read(path)
        if text is None:
            text = json.dumps(measure(), ensure_ascii=False, allow_nan=False)
            _write(path, text)
        return json.loads(text)  # a fresh one takes the same way, so that both are the same


def _described(exam: Exam) -> dict[str, Any]:
    """What an examination asks and how; its models go by digest."""
    asked = [[row["id"], row["messages"], row.get("meta")] for row in exam.questions]
    settings = [exam.unfinished_reward, exam.max_batch_tokens]
    return {"questions": asked, "drawing": asdict(exam.drawing), "settings": settings}


def _machine() -> dict[str, Any]:
    """Code, package versions, and what else bytes depend on."""
    modules = {path: digest(_CODE / path) for path in closure(__name__, _CODE)}
    kernels = [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]
    return {"code": modules, "packages": digest(_CODE / "environment.json"), "kernels": kernels}


def _read(path: Path) -> str | None:
    """The text of a kept file; None where there is none, or it is not as it was written."""
    try:
        check, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if hashlib.sha256(text.encode()).hexdigest() == check else None


def _write(path: Path, text: str) -> None:
    """Beside and swap: runs that go on side by side may keep the same measurement."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
    draft.replace(path)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
