"""Several reward models as one, scored completion by completion."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.batching import Batch
from rlhf.losses.reward import Combination, combine
from rlhf.models.heads import RewardModel
from rlhf.records import write_json


class RewardEnsemble(nn.Module):
    """Reward models that were normalised on the same samples, and how their scores become one (`combine`)."""

    def __init__(self, members: Sequence[RewardModel], how: Combination) -> None:
        """Take over the members. Raises ValueError without any."""
        super().__init__()
        if not members:
            raise ValueError("an ensemble of 0 reward models, expected at least 1")
        self.members = nn.ModuleList(members)
        self.how = how
        self.chat = members[0].chat

    @property
    def model(self) -> Any:
        """The first member's language model: what a critic is copied from."""
        return self.members[0].model

    @property
    def std(self) -> Tensor:
        """Mean over members of the deviation they were normalised by: the unit of their margins."""
        return torch.stack([member.std for member in self.members]).mean()

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B]."""
        return combine(torch.stack([member(batch) for member in self.members]), self.how)

    def save(self, folder: Path) -> None:
        """Write ensemble.json, and each member as a reward model under members/."""
        for number, member in enumerate(self.members):
            member.save(folder / "members" / str(number))
        write_json(folder / "ensemble.json", {"combine": self.how, "members": len(self.members)})


def load_reward_model(folder: Path) -> RewardModel | RewardEnsemble:
    """Read what `RewardModel.save` or `RewardEnsemble.save` wrote. Raises ValueError where it is neither."""
    if not (folder / "ensemble.json").is_file():
        return RewardModel.load(folder)
    about = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
    members = [RewardModel.load(folder / "members" / str(number)) for number in range(about["members"])]
    return RewardEnsemble(members, about["combine"]).eval()
