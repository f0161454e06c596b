"""Low-rank adapters (LoRA, 2106.09685) over one frozen base model that all models of a stage share.

    y = W x + Σ_i (α_i/r_i) B_i A_i x,   i over the adapters of a policy, the newest last

A `Base` is the frozen model with every adapter that was put on it. An `Adapted` model is a view: the base with some
of these adapters switched on. Policy, reference, reward model and critic are views of one base; the reference is the
policy's view without its newest adapter. Frozen weights may be kept in 4 bits (QLoRA, 2305.14314); nothing is ever
merged into those.

Rows of the embedding (and of the LM head where it is not tied) that belong to control tokens are trained too: markers
that a chat added know nothing yet. An adapter holds whole rows, and those of the newest adapter count.
"""

import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.bits import quiet
from rlhf.errors import PreflowError
from rlhf.models.adapted import Adapted
from rlhf.models.pretrained import linear_names
from rlhf.models.recompute import recompute_blocks
from rlhf.seeding import derive


@dataclass(frozen=True)
class Origin:
    """The base of a stack of adapters, and how it is kept in memory."""

    folder: Path
    """A policy folder, plain or with adapters, that holds its weights."""
    weights: str
    """SHA-256 of the file of weights."""
    quantised: bool
    """Whether linear layers are kept as nf4 with double quantisation."""
    dtype: str
    """What everything else is kept and computed in, float32 or bfloat16."""

    def same_base(self, other: "Origin") -> bool:
        """Whether one module in memory serves both."""
        return (self.weights, self.quantised, self.dtype) == (other.weights, other.quantised, other.dtype)


@dataclass(frozen=True)
class Shape:
    """What an adapter looks like."""

    rank: int
    alpha: float
    """Weight of the update B A, times the rank."""
    dropout: float
    """Share of a layer's inputs that the trained adapter does not see in training."""
    targets: tuple[str, ...]
    """Last names of the layers that have one, sorted."""
    tokens: tuple[int, ...]
    """Ids of the tokens whose rows it holds, sorted."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter on a base."""

    key: str
    """Its name in the layers of the base."""
    label: str
    """What it was trained for: sft, rl, …"""
    shape: Shape
    ids: Tensor
    """`shape.tokens`, on the device of the base."""
    halves: Mapping[str, nn.Module]
    """By their path: `….lora_A` [rank, in] and `….lora_B` [out, rank]; float32."""
    rows: Mapping[str, nn.Parameter]
    """Rows [tokens, H] by the path of their matrix, input embedding first; of tied matrices the first only."""

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Those of both halves of each layer; where processes divide them, this one's share while they are divided."""
        return {f"{path}.weight": half.weight for path, half in self.halves.items()}  # type: ignore[misc]

    def tensors(self) -> dict[str, nn.Parameter]:
        """All of it, by the names that PEFT gives them in a file."""
        rows = {f"{path}.token_adapter.trainable_tokens_delta": rows for path, rows in self.rows.items()}
        found = {f"base_model.model.{name}": tensor for name, tensor in {**self.weights, **rows}.items()}
        return dict(sorted(found.items()))


class Base:
    """A causal language model of transformers, frozen, and the adapters on it."""

    def __init__(self, model: Any, origin: Origin) -> None:
        """Take over `model`, which was loaded from `origin`."""
        self.origin = origin
        self.model = model.requires_grad_(False)
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        embedding = model.get_input_embeddings()
        self.linear = linear_names(model, self.head)
        self.matrices = {_path(model, embedding): embedding.weight}
        if self.head.weight is not embedding.weight:
            self.matrices[_path(model, self.head)] = self.head.weight
        self.adapters: dict[str, Adapter] = {}
        self._scale = getattr(embedding, "embed_scale", 1.0)
        self._hook = embedding.register_forward_hook(self._with_rows)
        self._tuner: Any = None
        self._layers: dict[str, Any] = {}
        self._users: Counter[str] = Counter()
        self._added = 0
        self._active: tuple[Adapter, ...] = ()
        self._drops: Adapter | None = None
        self._recomputes = False

    def add(
        self, label: str, shape: Shape, below: Sequence[Adapter] = (), seed: int = 0, key: str | None = None
    ) -> Adapter:
        """A new adapter: A drawn from `seed`, B = 0, rows as those below have them, so that it changes nothing yet.

        `key` is what to find it by in `adapters`, where it is known from elsewhere.

        Raises PreflowError where a target is no linear layer of the model, ValueError where its tokens are not those of
        the adapter below, whose rows would go unseen.
        """
        if unknown := sorted(set(shape.targets) - set(self.linear)):
            raise PreflowError(
                f"training.targets names {', '.join(unknown)}, which the model has not; its linear layers are "
                f"{', '.join(self.linear)}"
            )
        if below and below[-1].shape.tokens != shape.tokens:
            raise ValueError(f"{len(shape.tokens)} tokens on one of {len(below[-1].shape.tokens)}, expected the same")
        self._added += 1
        key = key or f"{label}_{self._added}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "adapter"))
            self._inject(key, shape)
        halves = {}
        for path, layer in self._layers.items():
            for half in ("lora_A", "lora_B") if key in layer.lora_A else ():
                linear = halves[f"{path}.{half}"] = getattr(layer, half)[key].requires_grad_(False)
                linear.weight.data = linear.weight.data.float()
        ids = torch.tensor(shape.tokens, device=self.model.device, dtype=torch.long)
        known = below[-1].rows if below else {}
        rows = {
            path: nn.Parameter(known.get(path, matrix[ids]).detach().float().clone(), requires_grad=False)
            for path, matrix in self.matrices.items()
            if shape.tokens
        }
        adapter = self.adapters[key] = Adapter(key, label, shape, ids, halves, rows)
        return adapter

    def view(self, adapters: Sequence[Adapter], trained: bool = False) -> Adapted:
        """The base with these adapters, the newest of them trained or not; adapters go when no view has them."""
        view = Adapted(self, tuple(adapters), trained)
        keys = [adapter.key for adapter in adapters]
        self._users.update(keys)
        weakref.finalize(view, self._release, keys).atexit = False
        return view

    def activate(self, adapters: tuple[Adapter, ...], trained: bool) -> None:
        """Switch these on and all others off, with dropout in the trained one where a gradient is wanted."""
        drops = adapters[-1] if trained and adapters[-1].shape.dropout and torch.is_grad_enabled() else None
        if adapters == self._active and drops is self._drops:
            return
        keys = [adapter.key for adapter in adapters]
        for layer in self._layers.values():
            layer._active_adapter = keys
            for key in keys:
                if key in layer.lora_dropout:
                    layer.lora_dropout[key].train(drops is not None and key == drops.key)
        self._active, self._drops = adapters, drops

    def recompute(self) -> None:
        """Have the backward pass recompute every block, with the adapters that were on in the forward pass."""
        if not self._recomputes:
            recompute_blocks(self.model, lambda: (nullcontext(), self._as_now()))
            self._recomputes = True

    @torch.no_grad()
    def merged(self, adapters: Sequence[Adapter]) -> Any:
        """The plain model W + Σ (α/r) B A with the newest rows; this base is used up. Raises ValueError for 4 bits."""
        if self.origin.quantised:
            raise ValueError("the base is in 4 bits, expected its original weights: nothing is merged into 4 bits")
        if not adapters:
            return self.model
        self._hook.remove()
        merged = self._tuner.merge_and_unload(adapter_names=[adapter.key for adapter in adapters])
        for path, rows in adapters[-1].rows.items():
            merged.get_submodule(path).weight[adapters[-1].ids] = rows.to(merged.dtype)
        return merged

    def logits(self, states: Tensor) -> Tensor:
        """The LM head with the rows of the adapters that are on; [..., V] from [..., H]."""
        logits: Tensor = self.head(states)
        if not self._active or not self._active[-1].rows:
            return logits
        newest = self._active[-1]
        own = states.to(torch.float32) @ list(newest.rows.values())[-1].T
        if self.head.bias is not None:
            own = own + self.head.bias[newest.ids]
        return logits.index_copy(-1, newest.ids, own.to(logits.dtype))

    def _with_rows(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of the input embedding: control tokens read the newest adapter's rows."""
        if not self._active or not self._active[-1].rows:
            return output
        newest = self._active[-1]
        place = torch.searchsorted(newest.ids, inputs[0]).clamp(max=len(newest.ids) - 1)  # [B, T]
        own = next(iter(newest.rows.values()))[place] * self._scale
        return torch.where((newest.ids[place] == inputs[0])[..., None], own.to(output.dtype), output)

    def _inject(self, key: str, shape: Shape) -> None:
        quiet()
        from peft import LoraConfig, LoraModel
        from peft.tuners.lora import LoraLayer

        config = LoraConfig(
            r=shape.rank, lora_alpha=shape.alpha, lora_dropout=shape.dropout, target_modules=list(shape.targets)
        )  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that PEFT mends by itself
            if self._tuner is None:
                self._tuner = LoraModel(self.model, {key: config}, key)
            else:
                self._tuner.peft_config[key], self._tuner.active_adapter = config, key
                self._tuner.inject_adapter(self.model, key)
        self._layers = {path: part for path, part in self.model.named_modules() if isinstance(part, LoraLayer)}
        self._active = ()
        for layer in self._layers.values():
            layer._active_adapter = []  # `activate` says which are on

    def _release(self, keys: Sequence[str]) -> None:
        self._users.subtract(keys)
        for key in keys:
            if self._users[key] <= 0 and self.adapters.pop(key, None) is not None:
                self._tuner.peft_config.pop(key)
                for layer in self._layers.values():
                    for parts in (layer.lora_A, layer.lora_B, layer.lora_dropout):
                        if key in parts:
                            del parts[key]

    @contextmanager
    def _again(self, adapters: tuple[Adapter, ...], trained: bool) -> Iterator[None]:
        self.activate(adapters, trained)
        yield

    def _as_now(self) -> AbstractContextManager[None]:
        return self._again(self._active, self._drops is not None)


def _path(model: nn.Module, wanted: nn.Module) -> str:
    return next(path for path, part in model.named_modules() if part is wanted)
