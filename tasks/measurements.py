"""What a policy did in an examination, kept by digest: a policy that several runs share is examined once.

The key names everything that decides the numbers: the bytes of the policy, what was asked and how, the scorers, the
code, the package versions, and device, threads and kernels, without which bytes are not promised. So a kept measurement
is what a fresh one would be, to the last bit; a torn or foreign file is measured anew.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf.answers import Answers, from_rows, to_rows
from rlhf.errors import NumericsError
from rlhf.evaluation import Exam, Values, answer, best_of_n_curve, forgetting, mark, selection_score
from rlhf.models import load_policy
from tasks.closure import closure
from tasks.graph import digest

_ROOT = Path(__file__).parents[1]


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
            policy = load_policy(folder, exam.reference)
            answers, greedy = answer(exam, policy)
            values = mark(exam, answers, greedy) | {"nll": forgetting(exam, policy)}
            kept = {name: None if found is None else found.tolist() for name, found in values.items()}
            return {"rows": to_rows(exam.questions, answers, greedy, {}), "values": kept}

        about = {"policy": digest(folder), "stable": exam.stable}
        found = self._once("policy", exam, about, measure, f"policy {folder}")
        answers, greedy = from_rows(found["rows"], exam.chat, same_chat=True)
        values = {name: None if kept is None else np.array(kept) for name, kept in found["values"].items()}
        return Measured(answers, greedy, values)

    def selection(self, exam: Exam, folder: Path) -> np.ndarray:
        """One score a prompt [P], by which policies are chosen between."""

        def measure() -> dict[str, Any]:
            return {"selection_score": selection_score(exam, load_policy(folder, exam.reference)).tolist()}

        found = self._once("selection", exam, {"policy": digest(folder)}, measure, f"policy {folder}")
        return np.array(found["selection_score"])

    def best_of_n(self, exam: Exam, sizes: Sequence[int], seed: int, samples: int) -> list[dict[str, Any]]:
        """The best-of-n curve of the reference."""
        about = {"sizes": list(sizes), "seed": seed, "samples": samples}
        curve: list[dict[str, Any]] = self._once(
            "best_of_n", exam, about, lambda: best_of_n_curve(exam, sizes, seed, samples), "the reference's best of n"
        )
        return curve

    def _once(self, kind: str, exam: Exam, about: Mapping[str, Any], measure: Callable[[], Any], whose: str) -> Any:
        key = _sha256({"kind": kind, "about": about, "exam": _described(exam), "models": self.models, **_machine()})
        path = self.folder / f"{kind}-{key[:32]}.json"
        text = _read(path)
        if text is None:
            made = measure()
            bad = next(_nonfinite(made), None)
            if bad is not None:
                raise NumericsError(
                    f"{whose}: {bad[0]} is {bad[1]}, expected a finite number: the weights or the scorers are broken; "
                    "train it again with a lower learning rate, or leave it out"
                )
            text = json.dumps(made, ensure_ascii=False, allow_nan=False)
            _write(path, text)
        return json.loads(text)  # a fresh one takes the same way, so that both are the same


def _described(exam: Exam) -> dict[str, Any]:
    """What an examination asks and how; its models go by digest."""
    asked = [[row["id"], row["messages"], row.get("meta")] for row in exam.questions]
    settings = [exam.unfinished_reward, exam.max_batch_tokens]
    return {"questions": asked, "drawing": asdict(exam.drawing), "settings": settings}


_CODE = {path: digest(_ROOT / path) for path in [*closure(__name__, _ROOT), "environment.json"]}
"""Code and package versions, as they are when they are loaded: files may be edited while policies are measured."""


def _machine() -> dict[str, Any]:
    """What else bytes depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"code": _CODE, "kernels": [device, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]}


def _nonfinite(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers that JSON cannot hold, each with the keys that lead to it."""
    if isinstance(value, float) and not math.isfinite(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _nonfinite(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _nonfinite(one, f"{name}[{place}]")


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
