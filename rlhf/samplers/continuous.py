"""Continuous batching of transformers as a sampler: rows join and leave the batch at every token, over a paged cache.

Log-probabilities are the engine's own, of the tempered distribution that it drew from: the softmax is taken after the
temperature and in float32, and a token's is read off before it is known to the trainer. Tried with transformers 5.23 on
CPU; on a GPU the engine sizes its cache by the memory that is free, and was not tried.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from rlhf.errors import NumericsError, PreflowError
from rlhf.models import Policy
from rlhf.models.adapted import Adapted
from rlhf.models.needs import charge_sampling
from rlhf.sampler import Completion, check_request
from rlhf.spending import spent

PAGE, ROWS, BATCH_TOKENS = 32, 256, 512
"""On CPU: tokens of a page, requests at a time, tokens of one pass. The engine by itself makes a cache as large as the
machine, which takes half a minute."""


@spent("sample")
def sample_continuously(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    group_size: int,
    seed: int,
) -> list[Completion]:
    """A `rlhf.sampler.Sampler`. The same prompts and seed give the same completions again, on one machine.

    A row's random numbers depend on all that is in the batch with it, unlike `rlhf.sampler.sample`'s.

    Raises PreflowError for a policy with adapters, and where the engine ends before its work is done; NumericsError for
    log-probabilities that are not finite.
    """
    check_request(policy, prompts, max_new_tokens, temperature, group_size)
    refuse_adapters(policy)
    if not prompts:
        return []
    # transformers refuses more than one completion where all would be the same.
    copies, drawn = (1, group_size) if temperature > 0 else (group_size, 1)
    was_training, attention = policy.model.training, policy.model.config._attn_implementation
    policy.model.set_attn_implementation("sdpa")  # as the trainer's own (`rlhf.models.packing`), without the packing
    try:
        with torch.random.fork_rng(devices=_cuda(policy)):
            given = _generate(policy, prompts, max_new_tokens, temperature, drawn, seed)
    finally:
        policy.model.set_attn_implementation(attention)
        policy.model.train(was_training)
    groups = [[_completion(policy, index, one) for one in group] for index, group in enumerate(given)]
    lengths = [len(one.ids) for group in groups for one in group]
    charge_sampling(policy.model, [len(prompt) for prompt in prompts], lengths)
    return [one for group in groups for one in group * copies]


def refuse_adapters(policy: Policy) -> None:
    """The engine would see their layers and not their rows of control tokens. Raises PreflowError."""
    if isinstance(policy.model, Adapted):
        raise PreflowError(
            "continuous batching does not know adapters: set rl.sampler to ours, or training.method to full"
        )


def _generate(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    group_size: int,
    seed: int,
) -> list[list[Any]]:
    """What the engine gives for each prompt, [P][G].

    As `generate_batch` does it, except that the engine starts when all requests are there: what is drawn would
    otherwise depend on how many had come by the first pass.
    """
    from transformers import GenerationConfig

    drawing: dict[str, Any] = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    settings = GenerationConfig(
        do_sample=temperature > 0, **drawing, max_new_tokens=max_new_tokens, num_return_sequences=group_size,
        eos_token_id=policy.chat.stop_id, pad_token_id=policy.chat.pad_id,
    )  # fmt: skip
    longest = max(map(len, prompts)) + max_new_tokens
    manager = policy.model.init_continuous_batching(settings, _config(policy, longest, len(prompts) * group_size, seed))
    names = manager.add_requests([list(prompt) for prompt in prompts], max_new_tokens=max_new_tokens)
    found: dict[str, Any] = {}
    manager.start()
    try:
        while len(found) < len(prompts) * group_size:
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                break
            if result is not None and (result.error is not None or result.is_finished()):
                found[result.request_id] = result
    finally:
        manager.stop(block=True)
        manager.destroy()
    if failed := [one.error for one in found.values() if one.error is not None]:
        raise PreflowError(f"continuous batching ended with an error ({failed[0]}): set rl.sampler to ours")
    if len(found) < len(prompts) * group_size:
        raise PreflowError(f"continuous batching ended after {len(found)} completions: set rl.sampler to ours")
    children = [f"__child#{number}" for number in range(group_size - 1)]
    return [[found[f"{name}{child}"] for child in (*children, "")] for name in names]


def _config(policy: Policy, longest: int, rows: int, seed: int) -> Any:
    from transformers.generation import ContinuousBatchingConfig

    sizes: dict[str, Any] = {}
    if not _cuda(policy):
        pages = math.ceil(longest / PAGE)
        sizes = {"page_size": PAGE, "num_blocks": (min(rows, ROWS) + 1) * pages, "max_batch_tokens": BATCH_TOKENS}
    # The attention kernel stays the trainer's: another one computes otherwise, and would be a gap between the two.
    return ContinuousBatchingConfig(return_logprobs=True, seed=seed % 2**31, auto_switch_to_flash=False, **sizes)


def _completion(policy: Policy, index: int, given: Any) -> Completion:
    ids, logprobs = list(given.generated_tokens), list(given.logprobs)
    if not all(map(math.isfinite, logprobs)):
        raise NumericsError(f"prompt {index}: the policy's logits are not finite; lower lr or go back a checkpoint")
    return Completion(index, ids, logprobs, "stop" if ids[-1] == policy.chat.stop_id else "length")


def _cuda(policy: Policy) -> list[torch.device]:
    """The model's GPU; empty on CPU."""
    return [policy.model.device] if policy.model.device.type == "cuda" else []
