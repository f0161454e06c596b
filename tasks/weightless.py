"""Models without data, of a stage's first step: whole, or adapters on a base that they share."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.ledger import Weightless
from rlhf.models import Policy, RewardModel
from rlhf.models.adapters import Base, Origin
from rlhf.models.fused import fuse_norms
from rlhf.models.heads import Reads
from rlhf.models.pretrained import without_dropout
from rlhf.models.trainable import in_full, with_adapter
from tasks.config.training import FULL, Training

FUSED = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose norms `fuse_norms` replaces on a processor; it would try each, which takes data."""
T = TypeVar("T")


class Models:
    """Those of one stage."""

    def __init__(
        self, ledger: Weightless, training: Training, model: Mapping[str, Any] | Path, cuda: bool, alone: bool
    ) -> None:
        """`alone`: of stage `base`, which trains all weights in float32."""
        self.ledger, self.cuda = ledger, cuda
        self.training = FULL if alone else training
        self.config = _config(model)
        self.vocab: int = self.config.vocab_size
        self.chat = Chat.from_words([])
        self.base: Base | None = None

    def made(self, make: Callable[[], T]) -> T:
        """What `make` gives, all of whose tensors are fake."""
        with self.ledger.making():
            return make()

    def trained(self, label: str = "policy") -> Policy:
        """A policy that is trained."""
        if self.training.method == "full":
            return self.made(lambda: in_full(self._whole(), self.training))
        start = Policy(self._shared().view([]), self.chat)
        return self.made(lambda: with_adapter(start, self.training, 0, label))

    def beside(self, kind: str, reads: Reads) -> nn.Module:
        """A model that is not trained, with a reward model's heads where it is a `reward`."""
        policy = self._whole() if self.training.method == "full" else self.trained(kind)
        found: nn.Module = policy.model if kind == "policy" else self.reward_model(policy, reads)
        return found.requires_grad_(False)

    def reward_model(self, policy: Policy, reads: Reads) -> RewardModel:
        return self.made(lambda: RewardModel(policy, 0, reads))

    def claim(self) -> None:
        """The base that adapters share is weights."""
        if self.base is not None:
            self.ledger.claim_model("weights", self.base.model)

    def has(self, tensor: Tensor) -> bool:
        """Whether it belongs to the shared base."""
        return self.base is not None and any(tensor is one for one in self.base.model.parameters())

    def _shared(self) -> Base:
        if self.base is None:
            origin = Origin(Path(), "", quantised=False, dtype=self.training.dtype)
            self.base = self.made(lambda: Base(self._whole().model, origin))
        return self.base

    def _whole(self) -> Policy:
        from transformers import AutoModelForCausalLM

        def make() -> Any:
            dtype = getattr(torch, self.training.dtype)
            return AutoModelForCausalLM.from_config(self.config, dtype=dtype, attn_implementation="sdpa").eval()

        model = self.made(make)
        if not self.cuda and self.config.model_type in FUSED:
            with self.ledger:
                fuse_norms(model)
        return Policy(model, self.chat)


def _config(model: Mapping[str, Any] | Path) -> Any:
    """Raises PreflowError for a model whose code is its own."""
    from transformers import AutoConfig, LlamaConfig

    if not isinstance(model, Path):
        return LlamaConfig(**model)
    if "auto_map" in json.loads((model / "config.json").read_text("utf-8")):
        raise PreflowError("the model brings code of its own, which a plan does not run")
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    without_dropout(config)
    return config
