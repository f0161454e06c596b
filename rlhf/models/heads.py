"""Scalar heads on a causal language model: the reward model, and the critic, which starts as another."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf import distributed
from rlhf.batching import Batch
from rlhf.models.forward import at_least_float32, hidden_states, logprobs_from_hidden
from rlhf.models.policy import Policy, load_policy, save_policy
from rlhf.records import write_json
from rlhf.seeding import generator

Reads = Literal["tokens", "last_token"]
TOKEN_HEAD_SIZE = 32
TOKEN_WEIGHT = 10.0
"""Weight of the mean over tokens, so that both readers learn about as fast; answers here have ten words and more."""


class RewardModel(nn.Module):
    """A causal language model with a reader of its last real token, and another of every token it judges.

    score = (w · h_last + b + 10/|y| Σ_t g(h_t, log π(x_t | x_<t)) − mean) / std, Σ over the completion's |y| tokens

    The first term is the usual reward head (Stiennon 2020). The second is ours: g is a small perceptron that starts at
    zero and also sees how likely the model itself finds each token. A small model cannot check an answer when it has
    read it, but it is surprised where a word is wrong. The LM head this needs also serves a language-model loss.
    Tokens are averaged, since a sum pays for every further token that is liked, and policies find that out.
    With `reads="last_token"` there is the first term alone: with a large vocabulary the LM head is a third of the work.
    """

    mean: Tensor
    std: Tensor
    token_head: nn.Module | None

    def __init__(self, policy: Policy, seed: int, reads: Reads = "tokens") -> None:
        """Take over the policy's model (not a copy) and draw heads: w ~ N(0, 1/√(H + 1)), b = 0, g = 0."""
        super().__init__()
        self.model: Any = policy.model
        self.chat = policy.chat
        size = self.model.config.hidden_size
        self.head = _drawn(nn.Linear(size, 1), size, seed, 0)
        self.token_head = None
        if reads == "tokens":
            first, last = _drawn(nn.Linear(size + 1, TOKEN_HEAD_SIZE), size, seed, 1), nn.Linear(TOKEN_HEAD_SIZE, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.token_head = nn.Sequential(first, nn.GELU(), last)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.to(self.model.device)

    @property
    def policy(self) -> Policy:
        """What it reads with, as a policy."""
        return Policy(self.model, self.chat)

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B], normalised once `normalise` was called."""
        return self._read(batch, with_logprobs=self.token_head is not None)[0]

    def scores_and_logprobs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B] and the language model's own log-probabilities [B, T], 0 outside the loss mask; in one pass."""
        return self._read(batch, with_logprobs=True)

    def _read(self, batch: Batch, with_logprobs: bool) -> tuple[Tensor, Tensor]:
        home = batch.input_ids.device
        hidden = hidden_states(self.model, batch.input_ids, batch.attention_mask)
        logprobs = logprobs_from_hidden(self.model, hidden, batch) if with_logprobs else hidden.new_zeros(())
        batch = batch.to(hidden.device)
        hidden = at_least_float32(hidden)
        last = batch.attention_mask.sum(-1) - 1
        read = hidden[torch.arange(len(last), device=last.device), last]  # [B, H]
        scores = self.head(read).squeeze(-1)
        if self.token_head is not None:
            judged = torch.cat([hidden, logprobs[..., None]], dim=-1)  # [B, T, H + 1]
            liked = self.token_head(judged).squeeze(-1) * batch.loss_mask  # [B, T]
            scores = scores + TOKEN_WEIGHT * liked.sum(dim=1) / batch.loss_mask.sum(dim=1).clamp(min=1)
        return ((scores - self.mean) / self.std).to(home), logprobs.to(home)

    @torch.no_grad()
    def normalise(self, mean: float, std: float) -> None:
        """Shift and scale the scores so that those measured with `mean` and `std` come out at 0 and 1.

        Composes: the figures are of the scores as this model gives them now. Raises ValueError unless std > 0.
        """
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"scores have mean {mean} and std {std}, expected finite and std above 0: all equal?")
        self.mean += mean * self.std
        self.std *= std

    def save(self, folder: Path) -> None:
        """Write the backbone as a policy folder, and head.safetensors with head and normalisation beside it.

        As `save_policy`, only the first of several processes writes.
        """
        save_policy(self.policy, folder)
        if distributed.group().rank > 0:
            return
        every = (*self.named_parameters(), *self.named_buffers())
        own = {name: tensor for name, tensor in every if not name.startswith("model.")}
        save_file({name: tensor.detach().cpu() for name, tensor in own.items()}, folder / "head.safetensors")
        read_at = ["last_token", *(["completion_tokens"] if self.token_head else [])]
        about = {"kind": "reward_model", "read_at": read_at}
        write_json(folder / "head.json", about)

    @classmethod
    def load(cls, folder: Path, over: Policy | None = None) -> "RewardModel":
        """Read what `save` wrote; `over` as in `load_policy`. Raises ValueError where the folder has no head."""
        if not (folder / "head.safetensors").is_file():
            raise ValueError(f"{folder.name} holds no head.safetensors: expected a reward model, not a policy")
        head = load_file(folder / "head.safetensors")
        reads: Reads = "tokens" if any(name.startswith("token_head.") for name in head) else "last_token"
        model = cls(load_policy(folder, over), seed=0, reads=reads)
        missing, unexpected = model.load_state_dict(head, strict=False)
        if unexpected or any(not name.startswith("model.") for name in missing):
            raise ValueError(
                f"{folder.name}/head.safetensors holds {sorted(head)}, expected head.*, token_head.*, mean and std"
            )
        return model.eval()


def _drawn(layer: nn.Linear, size: int, seed: int, number: int) -> nn.Linear:
    nn.init.normal_(layer.weight, std=1 / math.sqrt(size + 1), generator=generator(seed, "heads", number))
    nn.init.zeros_(layer.bias)
    return layer


class ValueModel(nn.Module):
    """The critic: a backbone of its own and a linear head that starts at zero, so that every first value is 0.

    The backbone starts as that of the reward model, loaded again, as in InstructGPT (2203.02155).
    """

    def __init__(self, model: Any) -> None:
        """Take over `model`, a causal language model (not a copy)."""
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(model.device)

    def forward(self, batch: Batch) -> Tensor:
        """Values [B, T], aligned with log-probabilities: values[b, t] is what the state *before* token t is worth.

        It is read from the hidden state at t − 1, and is 0 outside the loss mask.
        """
        hidden = hidden_states(self.model, batch.input_ids, batch.attention_mask)
        values = self.head(at_least_float32(hidden[:, :-1])).squeeze(-1).to(batch.input_ids.device)  # [B, T - 1]
        return nn.functional.pad(values, (1, 0)) * batch.loss_mask
