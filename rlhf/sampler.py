"""Sampling: one prefill a prompt, its cache shared by the group, one token at a time, finished rows dropped.

Shapes: P prompts and R = P · group_size rows of a chunk, V vocabulary, K cached positions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlhf.errors import NumericsError
from rlhf.lanes import few, in_lanes, two_lanes
from rlhf.models import Policy, room
from rlhf.models.adapted import Adapted
from rlhf.models.decoding import decoding
from rlhf.models.needs import charge_sampling
from rlhf.models.pretrained import limits
from rlhf.seeding import derive
from rlhf.spending import spent

KEEP_SHARE = 3 / 4
"""Finished rows stay in the cache until the running ones are under this share: dropping copies the cache."""
LEAST = 64
"""Rows of half a batch: two smaller ones at once take longer than both together."""
LOOK_EVERY = {"cpu": 1, "cuda": 16}
"""Steps after which it is asked which rows still run: the answer of a GPU has to be waited for, with nothing handed to
it meanwhile."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion."""

    prompt_index: int
    """Index into the prompts that were sampled for."""
    ids: list[int]
    """Sampled ids, the stop token included where the completion stopped."""
    logprobs: list[float]
    """Log-probability of each id under the tempered distribution it was drawn from (untempered where greedy)."""
    stop_reason: str
    """"stop" or "length"."""
    policy_version: str = ""
    """Of the weights it was drawn from, as a server named them; "" where the policy's own were, in this process."""


class Sampler(Protocol):
    """What draws completions of a policy as it is at the time of the call: `sample` here, others in `rlhf.samplers`."""

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        group_size: int,
        seed: int,
    ) -> list[Completion]:
        """`group_size` completions of every prompt, prompt 0's group first; temperature 0 takes the likeliest token.

        Log-probabilities are of the distribution that was drawn from, as the sampler itself computed them: they are
        what the trainer's are compared with. Whether one seed gives the same completions again is each one's own.
        Raises ValueError for settings out of range and prompts that do not fit.
        """
        ...


@spent("sample")
def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    group_size: int,
    seed: int,
    batch_size: int = 512,
    numbers: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Sample `group_size` completions of every prompt, prompt 0's group first.

    A draw inverts the cumulative distribution at a uniform number that belongs to (seed, prompt, sample index, step):
    it depends neither on the batch the row was in nor on `group_size`. A prompt's number there is its place, or that
    of `numbers`, for who samples for some prompts of several. Temperature 0 takes the likeliest token.
    `batch_size` is the most rows at a time, except that a group is never cut; a small model has them in two halves, at
    once where there are two lanes (`rlhf.lanes`). `progress` is told (rows done, of).
    Raises ValueError for settings out of range and prompts that do not fit, NumericsError for non-finite logits.
    """
    check_request(policy, prompts, max_new_tokens, temperature, group_size)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    prompts_at_once, halved = _batch(policy, len(prompts), group_size, batch_size)
    two = halved and two_lanes(policy.model.parameters())
    groups: dict[int, list[Completion]] = {}

    def answers_to(chunk: list[int]) -> dict[int, list[Completion]]:
        known = chunk if numbers is None else [numbers[index] for index in chunk]
        uniforms = _uniforms(known, group_size, max_new_tokens, seed) if temperature > 0 else None
        return _sample_chunk(policy, prompts, chunk, group_size, max_new_tokens, temperature, uniforms)

    was_training = policy.model.training
    policy.model.eval()
    try:
        chunks = [order[start : start + prompts_at_once] for start in range(0, len(order), prompts_at_once)]
        for chunk, found in zip(chunks, in_lanes(answers_to, chunks, two), strict=True):
            drawn = [len(one.ids) for index in chunk for one in found[index]]
            charge_sampling(policy.model, [len(prompts[index]) for index in chunk], drawn)
            groups |= found
            if progress is not None:
                progress(len(groups) * group_size, len(prompts) * group_size)
    finally:
        policy.model.train(was_training)
    return [completion for index in range(len(prompts)) for completion in groups[index]]


def _batch(policy: Policy, prompts: int, group_size: int, batch_size: int) -> tuple[int, bool]:
    """How many prompts are sampled for together, and whether twice as many would be within `batch_size`.

    By the model and the request alone: samples have the same bytes whatever else is at work beside them.
    """
    most = max(1, batch_size // group_size)
    half = min(most // 2, math.ceil(prompts / 2))
    if half * group_size >= LEAST and not isinstance(policy.model, Adapted) and few(policy.model.parameters()):
        return half, True
    return most, False


@torch.inference_mode()
def _sample_chunk(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    chunk: list[int],
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    uniforms: Tensor | None,
) -> dict[int, list[Completion]]:
    model, stop_id, device = policy.model, policy.chat.stop_id, policy.model.device
    lengths = torch.tensor([len(prompts[index]) for index in chunk], device=device)
    width = int(lengths.max())
    input_ids = torch.tensor(
        [[*prompts[index], *[policy.chat.pad_id] * (width - len(prompts[index]))] for index in chunk], device=device
    )
    logits, cache = _prefill(model, input_ids, lengths, group_size, max_new_tokens)
    positions = lengths.repeat_interleave(group_size)[:, None]  # [R, 1]; where the next token goes
    hides = _hidden(positions, width, max_new_tokens, model.dtype)
    decode, head = decoding(model, width + max_new_tokens), model.get_output_embeddings()
    uniforms = None if uniforms is None else uniforms.to(device)

    ids = torch.full((len(positions), max_new_tokens), stop_id, device=device)  # [R, new tokens]
    logprobs = torch.zeros(ids.shape, device=device)
    rows = torch.arange(len(positions), device=device)  # the rows in the cache, of which some have finished
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        next_ids, next_logprobs = draw(logits, temperature, None if uniforms is None else uniforms[rows, step])
        # Finished rows write on after their stop; only what comes up to the first stop is read.
        ids[rows, step], logprobs[rows, step] = next_ids, next_logprobs
        running &= next_ids != stop_id
        looks = (step + 1) % LOOK_EVERY.get(device.type, 1) == 0
        left = int(running.sum()) if looks else len(rows)
        if left == 0 or step + 1 == max_new_tokens:
            break
        if left < KEEP_SHARE * len(rows):
            kept = running.nonzero().squeeze(-1)
            cache.batch_select_indices(kept)
            rows, next_ids, running, positions = rows[kept], next_ids[kept], running[kept], positions[kept]
            hides = None if hides is None else hides[kept]
        bias = None if hides is None else hides[..., : width + step + 1]
        logits = head(decode(next_ids, positions + step, bias, cache)).float()
    return _completions(chunk, group_size, ids.cpu().numpy(), logprobs.cpu().numpy(), stop_id)


def draw(logits: Tensor, temperature: float, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
    """Next ids [R] and their log-probabilities [R] from logits [R, V] by inverse CDF at uniforms [R] in [0, 1).

    The cumulative sum is in float64 and the point looked up is kept below its end, so the index is in range and its
    probability above 0 however the sum was rounded. Without uniforms the likeliest token is taken.
    """
    if uniforms is None:
        chosen = logits.argmax(-1, keepdim=True)
        return chosen.squeeze(-1), logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
    logprobs = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
    cumulative = logprobs.exp().double().cumsum_(-1)
    total = cumulative[:, -1:]
    point = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, total.new_zeros(())))
    # The first index whose cumulative sum exceeds the point; the clamp is for NaN, which the caller reports.
    chosen = torch.searchsorted(cumulative, point, right=True).clamp_(max=logits.shape[-1] - 1)
    return chosen.squeeze(-1), logprobs.gather(-1, chosen).squeeze(-1)


def _prefill(
    model: Any, input_ids: Tensor, lengths: Tensor, group_size: int, max_new_tokens: int
) -> tuple[Tensor, Any]:
    """Logits [R, V] after each prompt and a cache of R rows with room for `max_new_tokens` more.

    Prompts are padded on the right, where a causal model's real tokens do not see the padding; decoding hides it.
    """
    from transformers import DynamicCache

    prompt_cache = DynamicCache()
    output = model.get_decoder()(input_ids=input_ids, past_key_values=prompt_cache, use_cache=True)
    last = output.last_hidden_state[torch.arange(len(lengths), device=lengths.device), lengths - 1]  # [P, H]
    logits = model.get_output_embeddings()(last).float()
    return logits.repeat_interleave(group_size, 0), _roomy_cache(prompt_cache, group_size, max_new_tokens)


def _roomy_cache(prompt_cache: Any, group_size: int, max_new_tokens: int) -> Any:
    from transformers import Cache

    from rlhf.kv_cache import RoomyLayer

    layers = [RoomyLayer(layer.keys, layer.values, group_size, max_new_tokens) for layer in prompt_cache.layers]
    return Cache(layers=layers)


def _hidden(lengths: Tensor, width: int, max_new_tokens: int, dtype: torch.dtype) -> Tensor | None:
    """What attention adds to hide the padding between prompts [R, 1] long and their completions: [R, 1, 1, K] of 0 and
    -inf; None without any. Not a mask of truths, which every layer would turn into these at every token."""
    if bool((lengths == width).all()):
        return None
    places = torch.arange(width + max_new_tokens, device=lengths.device)
    between = ((places >= lengths) & (places < width))[:, None, None, :]
    return torch.zeros(between.shape, dtype=dtype, device=lengths.device).masked_fill_(between, -math.inf)


def _uniforms(numbers: list[int], group_size: int, max_new_tokens: int, seed: int) -> Tensor:
    """Uniform numbers in [0, 1), [R, new tokens] float64, a stream of its own for each row."""
    streams = (
        np.random.Generator(np.random.Philox(key=derive(seed, "sample", index, sample)))
        for index in numbers
        for sample in range(group_size)
    )
    return torch.from_numpy(np.stack([stream.random(max_new_tokens) for stream in streams]))


def _completions(
    chunk: list[int], group_size: int, ids: np.ndarray, logprobs: np.ndarray, stop_id: int
) -> dict[int, list[Completion]]:
    groups: dict[int, list[Completion]] = {index: [] for index in chunk}
    for row, (row_ids, row_logprobs) in enumerate(zip(ids.tolist(), logprobs.tolist(), strict=True)):
        index = chunk[row // group_size]
        stopped = stop_id in row_ids
        end = row_ids.index(stop_id) + 1 if stopped else len(row_ids)
        if not all(map(math.isfinite, row_logprobs[:end])):
            raise NumericsError(f"prompt {index}: the policy's logits are not finite; lower lr or go back a checkpoint")
        groups[index].append(Completion(index, row_ids[:end], row_logprobs[:end], "stop" if stopped else "length"))
    return groups


def check_request(
    policy: Policy, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, group_size: int
) -> None:
    """Raises ValueError for settings out of range and prompts that do not fit."""
    if max_new_tokens < 1 or group_size < 1 or not 0 <= temperature < math.inf:
        raise ValueError(
            f"max_new_tokens={max_new_tokens}, group_size={group_size}, temperature={temperature}: "
            "expected at least 1, at least 1, and finite from 0"
        )
    longest = room(policy.model) - max_new_tokens
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= longest:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; with max_new_tokens={max_new_tokens} the model has room for "
                f"1 to {longest} ({limits(policy.model)})"
            )
