"""The stages whose growth is measured, each as a function of a folder of rows; light until one is called."""

import shutil
from pathlib import Path

TIMES = (1, 3, 10, 30)
BASE = {"prepare": 1000, "validate": 400, "sft": 64, "reward model": 32, "sampling": 64}
"""Rows of the smallest size: lines, lines, demonstrations, pairs, prompts."""
START_UP = {stage: max(2, rows // 16) for stage, rows in BASE.items()}
"""Rows of a run that is start-up and little else."""
NEVER = 10**6
"""Checkpoints, whose number is not what is asked here."""
SEED = 0


def run(stage: str, folder: Path, rows: Path) -> None:
    """The stage on the rows of one size, from its beginning; `folder` holds the models."""
    shutil.rmtree(rows / "scratch", ignore_errors=True)  # a finished training would be taken up at its end
    {
        "prepare": _prepare, "validate": _validate, "sft": _sft, "reward model": _reward_model, "sampling": _sampling,
    }[stage](folder, rows)  # fmt: skip


def _prepare(_: Path, rows: Path) -> None:
    from tasks.config.prepare import Prepare
    from tasks.journal import Log
    from tasks.prepare import prepare

    prepare(Prepare(), raw=rows / "raw", out=rows / "prepared", log=Log.null())


def _validate(_: Path, rows: Path) -> None:
    from bench.speed.store import ROOT
    from tasks.config.validate import Validate
    from tasks.journal import Log
    from tasks.validate import validate

    config = Validate(required=("preferences", "prompts", "eval"))
    suites = ROOT / "data/expectations"
    validate(config, prepared=rows / "prepared", expectations=suites, out=rows / "validated", log=Log.null())


def _sft(folder: Path, rows: Path) -> None:
    from tasks.config.generation import Generation
    from tasks.config.sft import Sft
    from tasks.journal import Log
    from tasks.sft import sft

    sft(
        Sft(epochs=1, lr=1e-5, num_samples=1, checkpoint_every=NEVER), generation=Generation(max_new_tokens=1),
        seed=SEED, demonstrations=rows / "demonstrations", base=folder / "policy", out=rows / "out",
        scratch=rows / "scratch", log=Log.null(),
    )  # fmt: skip


def _reward_model(folder: Path, rows: Path) -> None:
    """The training of one of the stage's two; what it samples and reports does not grow with the rows."""
    from rlhf.comparisons import by_prompt
    from rlhf.models import RewardModel, load_policy
    from rlhf.records import read_rows
    from tasks.config.reward_model import RewardModel as Config
    from tasks.journal import Log
    from tasks.reward_fits import fit_member

    policy = load_policy(folder / "policy")
    fit_member(
        Config(checkpoint_every=NEVER), RewardModel(policy, SEED),
        by_prompt(policy.chat, read_rows(rows / "pairs/train.jsonl")), seed=SEED, name="policy_rm",
        scratch=rows / "scratch", log=Log.null(),
    )  # fmt: skip


def _sampling(folder: Path, rows: Path) -> None:
    from rlhf.models import load_policy
    from rlhf.records import read_rows
    from tasks.config.generation import Generation
    from tasks.sampling import sample_prompts

    policy = load_policy(folder / "policy")
    prompts = list(read_rows(rows / "prompts/train.jsonl"))
    sample_prompts(policy, prompts, Generation(max_new_tokens=24), group_size=8, seed=SEED)
