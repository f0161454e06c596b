"""`preflow export`: a policy as a plain Hugging Face folder with its card, loaded by a stranger before it is done."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import policies
from flows.card import card
from flows.serving import Layout, vllm
from rlhf.errors import PreflowError

if TYPE_CHECKING:
    from rlhf.models import Policy

CHECK = Path(__file__).parents[1] / "rlhf" / "export_check.py"
EVAL_PROMPTS = "data/03_validated/eval/eval.jsonl"
OWN_PROMPTS = 5


@dataclass(frozen=True)
class Exported:
    """What was written."""

    name: str
    folder: str
    layout: str
    """"model", or "adapter": `base/` and the PEFT adapter `adapter/` on it."""
    vllm: str
    """The command that serves it."""
    checked: int
    """Conversations on which a process with transformers alone gave the same ids and the same greedy answer."""


def export(model: str, folder: Path, merge: bool, say: Callable[[str], None]) -> Exported:
    """Write the policy that `model` names (see `policies.opened`) to `folder`, which must not be there or be empty.

    A policy of adapters becomes `base/` and `adapter/`, or one model with `merge`. Where it fails, nothing is left.

    Raises:
        PreflowError: the folder is in use, the policy is not found or cannot be read, or what was written does not do
            what the policy does.
    """
    if folder.is_symlink() or folder.name in ("", ".."):
        folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PreflowError(f"{folder} is there already; name a new folder")
    with policies.opened(model, say) as found:
        policy = policies.loaded(found)
        with _scratch(folder) as scratch:
            fresh = Path(scratch, "export")
            layout, checked = _write(policy, fresh, merge, _own(found), say)
            text = card(found, fresh, folder.name, layout, checked)
            (fresh / "README.md").write_text(text, encoding="utf-8")
            if folder.exists():  # as it is: it may be a mount, or where somebody's shell is
                for path in fresh.iterdir():
                    path.rename(folder / path.name)
            else:
                fresh.rename(folder)
    served = vllm(layout, folder, str(found.version.get("name") or folder.name))
    return Exported(found.name, str(folder), "adapter" if layout.rank else "model", served, checked)


def _scratch(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    """On the disk of `folder`: in it where it is there, else beside it."""
    place = folder if folder.exists() else folder.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=place)
    except OSError as error:
        raise PreflowError(f"{place} cannot be written to ({error.strerror}); name another folder") from None


def _own(found: policies.Found) -> list[list[dict[str, str]]]:
    """A few prompts of the evaluation of the run that made a policy, where they can be had."""
    text = policies.file_of(found, EVAL_PROMPTS)
    return [json.loads(line)["messages"] for line in (text or b"").splitlines()[:OWN_PROMPTS]]


def _write(
    policy: "Policy", fresh: Path, merge: bool, own: list[list[dict[str, str]]], say: Callable[[str], None]
) -> tuple[Layout, int]:
    """What was written, and on how many conversations it was checked."""
    from rlhf.export import expectations, is_adapted, write_base_and_adapter, write_model
    from rlhf.models.pretrained import room

    rank, told = 0, policy
    if is_adapted(policy) and not merge:
        rank = write_base_and_adapter(policy, fresh)
    else:
        told = write_model(policy, fresh)
    say("checking: a process without preflow loads it …")
    expected = expectations(told, own)
    paths = [fresh / "base", fresh / "adapter"] if rank else [fresh]
    with tempfile.TemporaryDirectory(prefix="preflow-check-") as scratch:
        wanted = Path(scratch, "expected.json")
        wanted.write_text(json.dumps(expected), encoding="utf-8")
        _check(paths[0], wanted, *paths[1:])
    own_code = "auto_map" in json.loads((paths[0] / "config.json").read_text(encoding="utf-8"))
    return Layout(rank, room(policy.model), expected["nf4"] if rank else "", own_code), len(expected["cases"])


def _check(model: Path, expected: Path, *adapter: Path) -> None:
    words = [sys.executable, "-I", str(CHECK), str(model), str(expected), *map(str, adapter)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PreflowError(f"transformers cannot load what was written, so nothing is left of it: {last}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["differences"]:
        raise PreflowError(
            f"what was written does not do what the policy does, so nothing is left of it: {found['differences'][0]}"
            + f" (and {len(found['differences']) - 1} more)" * (len(found["differences"]) > 1)
        )
