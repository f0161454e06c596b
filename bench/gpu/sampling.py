"""The sampler at its full batch: tokens a second of decoding, over what reading the weights and the cache allows.

A step reads every weight of the linear layers and the LM head once, and of each sequence all keys and values so far.
What comes before the first token (reading the prompts) is measured by itself and taken off.
"""

import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from bench.gpu import rates
from bench.gpu.model import SEED, chat_of, endless, policy_of, texts
from bench.gpu.setting import Setting
from bench.speed.needs import BYTES
from rlhf.sampler import sample

TIMES = 3


def measured(setting: Setting, scratch: Path) -> dict[str, Any]:
    """Decoding's tokens a second, its bound, and the share of it; the median of some times."""
    policy = policy_of(setting, endless(chat_of(setting)))
    prompts = texts(setting, setting.prompts, setting.prompt_tokens)

    def seconds(new_tokens: int) -> float:
        began = time.perf_counter()
        drawn = sample(
            policy, prompts, max_new_tokens=new_tokens, temperature=1.0, group_size=setting.group, seed=SEED,
            batch_size=setting.sequences,
        )  # fmt: skip
        took = time.perf_counter() - began  # the completions are on the host: the device has done them
        if sum(len(one.ids) for one in drawn) != setting.sequences * new_tokens:
            raise RuntimeError("some completions ended before their length")
        return took

    seconds(setting.new_tokens)  # warms up, all lengths of the cache too
    first, all_tokens = ([seconds(count) for _ in range(TIMES)] for count in (1, setting.new_tokens))
    steps = setting.new_tokens - 1
    decoding = (median(all_tokens) - median(first)) / steps
    best = rates.measured(setting)
    bound = best["bandwidth"] / bytes_of_a_step(setting, [len(prompt) for prompt in prompts]) * setting.sequences
    rate = setting.sequences / decoding
    return {
        **best, "prompts_seconds": median(first), "step_seconds": decoding, "tokens_per_second": rate,
        "bound": bound, "share": rate / bound, "sequences": setting.sequences, "peak_mb": _peak(setting),
    }  # fmt: skip


def bytes_of_a_step(setting: Setting, prompts: list[int]) -> float:
    """That must be read for one token of every sequence, on average over the steps of a completion."""
    shape, each = setting.shape, BYTES[setting.dtype]
    weights = shape.body + shape.hidden * shape.vocab
    token = 2 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads)
    positions = mean(prompts) + setting.new_tokens / 2  # from the prompt and one token to the prompt and all but one
    return float(each * (weights + setting.sequences * positions * token))


def _peak(setting: Setting) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if setting.device == "cuda" else 0.0
