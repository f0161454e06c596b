"""A base with adapters, as a model: several of these share one base, each switches its own adapters on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rlhf.models.adapters import Adapter, Base


class Adapted(nn.Module):
    """A causal language model that is a base with adapters; its parameters are those of the adapter it trains."""

    def __init__(self, base: "Base", adapters: "tuple[Adapter, ...]", trained: bool) -> None:
        """Use `Base.view`, which keeps account of what is in use."""
        super().__init__()
        self.base, self.adapters, self.trained = base, adapters, trained
        self.look_again()
        self.eval()

    def look_again(self) -> None:
        """Take the newest adapter's weights as parameters, as they are now: dividing them makes other tensors."""
        if self.trained:
            for name, tensor in self.adapters[-1].tensors().items():
                self.register_parameter(name.replace(".", "/"), tensor.requires_grad_(True))

    @property
    def config(self) -> Any:
        """That of the base."""
        return self.base.model.config

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        found: torch.device = self.base.model.device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """What the base computes in."""
        found: torch.dtype = self.base.model.dtype
        return found

    def get_decoder(self) -> Callable[..., Any]:
        """Blocks and embedding of the base, with this view's adapters on."""

        def decoder(**inputs: Any) -> Any:
            self.activate()
            return self.base.decoder(**inputs)

        return decoder

    def activate(self) -> None:
        """Switch this view's adapters on, and those of others off."""
        self.base.activate(self.adapters, self.trained)

    def get_output_embeddings(self) -> "Head":
        """The LM head of the base, with this view's rows."""
        return Head(self)


@dataclass(frozen=True)
class Head:
    """The LM head of a view."""

    view: Adapted

    @property
    def weight(self) -> Tensor:
        """The base's matrix [V, H], without the rows of adapters."""
        found: Tensor = self.view.base.head.weight
        return found

    def __call__(self, states: Tensor) -> Tensor:
        """Logits [..., V]."""
        self.view.activate()
        return self.view.base.logits(states)
