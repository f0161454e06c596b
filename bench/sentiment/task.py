"""What both sides are given: model, openings, reward, budget. Light, so that TRL's environment can import it too."""

import json
import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.sentiment import Lexicon, read_lexicon

ROOT = Path(__file__).parents[2]
OPENINGS = ROOT / "profiles/stories-sentiment/openings.jsonl"
HELD_OUT = 200
"""Openings at the end of the file that neither side trains on."""
STOP = "<s>"
"""Stories of this model end at the token they begin with."""


@dataclass(frozen=True)
class Budget:
    """The same number of completions, updates and threads for both: those of profile stories-sentiment."""

    updates: int = 20
    prompts: int = 8
    group_size: int = 16
    new_tokens: int = 48
    lr: float = 5e-5
    warmup: int = 6
    kl_coef: float = 0.05
    beta2: float = 0.99
    eps: float = 1e-8


def shared() -> Path:
    """Where model and lexicon lie: $PREFLOW_SHARED, else `shared` beside the checkout."""
    return Path(os.environ.get("PREFLOW_SHARED") or ROOT.parent / "shared")


def model_folder() -> Path:
    """The pretrained model."""
    return shared() / "models/stories3M"


def lexicon_path() -> Path:
    """VADER's lexicon."""
    return shared() / "data/vader_lexicon/vader_lexicon.txt"


def lexicon() -> Lexicon:
    """Word to valence."""
    return read_lexicon(lexicon_path())


def openings() -> tuple[list[str], list[str]]:
    """Openings to train on, and held-out ones."""
    texts = [json.loads(line)["prompt"] for line in OPENINGS.read_text("utf-8").splitlines()]
    return texts[:-HELD_OUT], texts[-HELD_OUT:]


@dataclass
class Clock:
    """What a training took; start it before the heavy imports."""

    began: float = field(default_factory=time.perf_counter)

    def write(self, path: Path) -> None:
        """Seconds by the clock and of processor, of the whole process so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = {"clock": time.perf_counter() - self.began, "processor": used.ru_utime + used.ru_stime}
        path.write_text(json.dumps(seconds), encoding="utf-8")
