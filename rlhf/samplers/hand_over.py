"""How a server comes by the weights of a policy: written to a folder that it reads too, by a name that says which.

The name is a fingerprint of the weights, so that equal weights are one version in any process, also after a kill.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from rlhf.errors import PreflowError
from rlhf.export import as_one
from rlhf.models import Policy, merged, save_policy
from rlhf.models.adapted import Adapted
from rlhf.models.adapter_files import write_adapter
from rlhf.models.adapters import Shape
from rlhf.remote import Remote
from rlhf.samplers.answers import parsed


@dataclass(frozen=True, slots=True)
class HandOver:
    """One way to hand a version over; both are vLLM's, whose names for paths and fields these are."""

    write: Callable[[Policy, Path], None]
    """Write the policy into an empty folder."""
    tell: Callable[[Remote, str, Path], None]
    """Have the server load a version from its folder."""
    forget: Callable[[Remote, str], None]
    """Have the server drop a version that is not asked for again."""
    model_of: Callable[[str, str], str]
    """The model to ask for, from the name that the server's own goes by, and the version."""
    echoed: Callable[[Remote, Mapping[str, Any]], str]
    """The version that an answer came from, as the server has it."""


@torch.no_grad()
def version_of(policy: Policy) -> str:
    """A name of the policy's weights as they are now; of one with adapters, of these and its base."""
    digest = sha256()
    if isinstance(policy.model, Adapted):
        digest.update(policy.model.base.origin.weights.encode())
        tensors = [named for adapter in policy.model.adapters for named in adapter.tensors().items()]
    else:
        tensors = list(policy.model.named_parameters())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"policy-{digest.hexdigest()[:16]}"


def _write_weights(policy: Policy, folder: Path) -> None:
    if isinstance(policy.model, Adapted) and policy.model.base.origin.quantised:
        raise PreflowError(
            "a policy in 4 bits merged into its base is another policy: set rl.sampler_server.hand_over to adapter, or "
            "training.method to lora"
        )
    save_policy(merged(policy), folder)


def _tell_weights(remote: Remote, version: str, folder: Path) -> None:
    """Requests that run are ended, and caches of keys and values dropped, which belong to the weights before."""
    remote.ask("pause?mode=abort", {})
    remote.ask("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
    remote.ask("update_weight_version", {"new_version": version})
    remote.ask("resume", {})


def _version_now(remote: Remote, _: Mapping[str, Any]) -> str:
    """It had the version before it was asked and has it now that it has answered, so it had it in between."""
    return str(parsed(remote.ask("weight_info")).get("weight_version"))


WEIGHTS = HandOver(
    write=_write_weights,
    tell=_tell_weights,
    forget=lambda remote, version: None,
    model_of=lambda served, version: served,
    echoed=_version_now,
)
"""All weights, adapters merged into them. vLLM does not say in an answer which weights made it, only which it has."""


def _write_adapter(policy: Policy, folder: Path) -> None:
    if not isinstance(policy.model, Adapted) or not policy.model.adapters:
        raise PreflowError(
            "the policy has no adapter to hand over: set rl.sampler_server.hand_over to weights, or training.method to "
            "lora"
        )
    adapters = policy.model.adapters
    rank = sum(adapter.shape.rank for adapter in adapters)
    targets = tuple(sorted({name for adapter in adapters for name in adapter.shape.targets}))
    newest = adapters[-1]
    tensors = as_one(adapters) | {name: one for name, one in newest.tensors().items() if "token_adapter" in name}
    write_adapter(folder, Shape(rank, rank, 0.0, targets, newest.shape.tokens), newest.rows, tensors)


def _tell_adapter(remote: Remote, version: str, folder: Path) -> None:
    remote.ask("v1/load_lora_adapter", {"lora_name": version, "lora_path": str(folder), "load_inplace": True})


def _forget_adapter(remote: Remote, version: str) -> None:
    with suppress(PreflowError):  # a server that was started anew has none to drop
        remote.ask("v1/unload_lora_adapter", {"lora_name": version})


ADAPTER = HandOver(
    write=_write_adapter,
    tell=_tell_adapter,
    forget=_forget_adapter,
    model_of=lambda served, version: version,
    echoed=lambda remote, answer: str(answer.get("model")),
)
"""All adapters as one, in the form that PEFT reads, rows of control tokens with them; the server has the base."""
