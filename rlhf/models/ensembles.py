"""Several reward models as one, scored completion by completion."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.batching import Batch
from rlhf.losses.reward import Combination, combine
from rlhf.models.heads import RewardModel
from rlhf.models.policy import Policy
from rlhf.records import write_json


class RewardEnsemble(nn.Module):
    """Reward models that were normalised on the same samples, and how their scores become one.

    score = (combine(members) − shift) / scale. The members' mean has less than their spread, the worst of them lies
    below 0: so the combined score has a normalisation of its own.
    """

    def __init__(self, members: Sequence[RewardModel], how: Combination) -> None:
        """Take over the members. Raises ValueError without any."""
        super().__init__()
        if not members:
            raise ValueError("an ensemble of 0 reward models, expected at least 1")
        self.members = nn.ModuleList(members)
        self.how = how
        self.shift, self.scale = 0.0, 1.0
        self.chat = members[0].chat

    @property
    def model(self) -> Any:
        """The first member's language model: what a critic is copied from."""
        return self.members[0].model

    @property
    def policy(self) -> Policy:
        """What the first member reads with, as a policy."""
        return self.members[0].policy

    @property
    def std(self) -> Tensor:
        """What a margin is multiplied by to be in the units of training: the members' mean deviation · scale."""
        return torch.stack([member.std for member in self.members]).mean() * self.scale

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B]."""
        combined = combine(torch.stack([member(batch) for member in self.members]), self.how)
        return (combined - self.shift) / self.scale

    def normalise(self, mean: float, std: float) -> None:
        """Shift and scale the combined scores, as `RewardModel.normalise` does one model's."""
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"scores have mean {mean} and std {std}, expected finite and std above 0: all equal?")
        self.shift += mean * self.scale
        self.scale *= std

    def save(self, folder: Path) -> None:
        """Write ensemble.json, and each member as a reward model under members/."""
        for number, member in enumerate(self.members):
            member.save(folder / "members" / str(number))
        about = {"combine": self.how, "members": len(self.members), "shift": self.shift, "scale": self.scale}
        write_json(folder / "ensemble.json", about)


def load_reward_model(folder: Path, over: Policy | None = None) -> RewardModel | RewardEnsemble:
    """Read what `RewardModel.save` or `RewardEnsemble.save` wrote; `over` as in `load_policy`.

    Raises ValueError where it is neither.
    """
    if not (folder / "ensemble.json").is_file():
        return RewardModel.load(folder, over)
    about = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
    members: list[RewardModel] = []
    for number in range(about["members"]):
        beside = members[0].policy if members and over is None else over
        members.append(RewardModel.load(folder / "members" / str(number), beside))
    ensemble = RewardEnsemble(members, about["combine"])
    ensemble.shift, ensemble.scale = about["shift"], about["scale"]
    return ensemble.eval()


def backbone_folder(folder: Path) -> Path:
    """The policy folder within that of a reward model: itself, or the first member of an ensemble."""
    return folder / "members" / "0" if (folder / "ensemble.json").is_file() else folder
