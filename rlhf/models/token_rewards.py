"""Reward models that speak at tokens: whether the answer will be right (outcome), or whether a step is (process)."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf import distributed
from rlhf.batching import Batch
from rlhf.chat import Chat
from rlhf.losses.verification import RATINGS, Aggregation, aggregate, not_wrong
from rlhf.models.forward import at_least_float32, hidden_states
from rlhf.models.policy import Policy, load_policy, save_policy
from rlhf.records import write_json
from rlhf.seeding import generator


class TokenRewardModel(nn.Module):
    """A causal language model with a linear head on every token it reads: logits w_t = W h_t + b.

    With `separator` None it is an outcome model and speaks at all tokens of a completion; with a separator it is a
    process model and speaks where a step ends. `classes` is 1 (right or not), or 3 for the ratings −1, 0, 1.
    """

    def __init__(self, policy: Policy, seed: int, separator: str | None = None, classes: int = 1) -> None:
        """Take over the policy's model (not a copy) and draw W ~ N(0, 1/√(H + 1)), b = 0.

        Raises ValueError where the separator is not exactly one token, or for another number of classes.
        """
        super().__init__()
        if classes not in (1, len(RATINGS)):
            raise ValueError(f"classes is {classes}, expected 1 or {len(RATINGS)}")
        self.model: Any = policy.model
        self.chat = policy.chat
        self.separator, self.classes = separator, classes
        self.separator_id = None if separator is None else separator_id(policy.chat, separator)
        size = self.model.config.hidden_size
        self.head = nn.Linear(size, classes)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(size + 1), generator=generator(seed, "token head"))
        nn.init.zeros_(self.head.bias)
        self.head.to(self.model.device)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, T], or [B, T, 3]; read at the token itself, so that they know it."""
        hidden = hidden_states(self.model, batch.input_ids, batch.attention_mask)
        logits: Tensor = self.head(at_least_float32(hidden)).to(batch.input_ids.device)
        return logits.squeeze(-1) if self.classes == 1 else logits

    def spoken(self, batch: Batch) -> Tensor:
        """Where it speaks, [B, T] bool: at all completion tokens, or where a step ends."""
        if self.separator_id is None:
            return batch.loss_mask
        return step_ends(batch, self.separator_id, self.chat.stop_id)

    def score(self, batch: Batch, how: Aggregation) -> Tensor:
        """Its claims P(right) as one number a completion, [B] in [0, 1]."""
        logits = self(batch)
        claims = logits.sigmoid() if self.classes == 1 else not_wrong(logits)
        return aggregate(claims, self.spoken(batch), how)

    def save(self, folder: Path) -> None:
        """Write the backbone as a policy folder, and head.safetensors and head.json beside it."""
        save_policy(Policy(self.model, self.chat), folder)
        if distributed.group().rank > 0:
            return
        save_file({name: tensor.cpu() for name, tensor in self.head.state_dict().items()}, folder / "head.safetensors")
        about = {"kind": "token_reward_model", "separator": self.separator, "classes": self.classes}
        write_json(folder / "head.json", about)

    @classmethod
    def load(cls, folder: Path, over: Policy | None = None) -> "TokenRewardModel":
        """Read what `save` wrote; `over` as in `load_policy`.

        Raises ValueError where the folder holds another kind of model or another head.
        """
        path = folder / "head.json"
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if about.get("kind") != "token_reward_model":
            raise ValueError(f"{folder.name} holds a {about.get('kind', 'policy')}, expected a token_reward_model")
        model = cls(load_policy(folder, over), seed=0, separator=about["separator"], classes=about["classes"])
        head = load_file(folder / "head.safetensors")
        found = {name: tuple(tensor.shape) for name, tensor in head.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in model.head.state_dict().items()}
        if found != expected:
            raise ValueError(f"{folder.name}/head.safetensors holds {found}, expected {expected}")
        model.head.load_state_dict(head)
        return model.eval()


def separator_id(chat: Chat, separator: str) -> int:
    """The one token of a step separator. Raises ValueError where it has none or several, or is unknown."""
    ids = chat.encode_text(separator)
    if len(ids) != 1 or ids[0] == chat.unk_id:
        raise ValueError(f"separator {separator!r} is the tokens {ids}, expected exactly one that the model knows")
    return ids[0]


def step_ends(batch: Batch, separator: int, stop: int) -> Tensor:
    """[B, T] bool: separators of a completion, and the stop token unless a separator is just before it."""
    ids = batch.input_ids
    ends = (ids == separator) & batch.loss_mask
    after_separator = nn.functional.pad(ends[:, :-1], (1, 0))
    return ends | ((ids == stop) & batch.loss_mask & ~after_separator)
