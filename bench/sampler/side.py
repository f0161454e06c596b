"""One side of a pair, in a process of its own: seconds and processor seconds of sampling, and what was sampled.

    python -m bench.sampler.side ours MODEL MODE RESULT
    python -m bench.sampler.side theirs MODEL MODE RESULT OURS ROWS [ROWS ...]

MODE is `sampled` (64 prompts, 8 completions each) or `greedy` (one each). OURS, the result of our side, says where each
completion ends that transformers samples: it draws other tokens than we do, so it is told how many. ROWS are how many
rows it is given at a time; the fastest counts.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.sampler.task import GROUP, NEW_TOKENS, SEED, Task, task
from bench.speed.clock import peak
from rlhf.batching import collate
from rlhf.lanes import one_lane
from rlhf.models import token_logprobs
from rlhf.sampler import Completion, sample


def main() -> None:
    torch.set_num_threads(1)
    side, model, mode, result = sys.argv[1:5]
    given = task(model)
    if side == "ours":
        with one_lane():  # as generate has one thread
            found = ours(given, mode)
    else:
        lengths = [len(ids) for ids in json.loads(Path(sys.argv[5]).read_text("utf-8"))["ids"]]
        found = theirs(given, mode, lengths, [int(rows) for rows in sys.argv[6:]])
    found |= {"peak": peak(), "versions": {name: version(name) for name in ("torch", "transformers")}}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


def ours(given: Task, mode: str) -> dict[str, Any]:
    """The product's sampler, with the largest gap between its log-probabilities and the trainer's."""

    def run(new_tokens: int) -> list[Completion]:
        return sample(
            given.policy, given.prompts, max_new_tokens=new_tokens, temperature=float(mode == "sampled"),
            group_size=GROUP if mode == "sampled" else 1, seed=SEED,
        )  # fmt: skip

    run(4)
    seconds, processor, completions = timed(lambda: run(NEW_TOKENS))
    return {
        "seconds": seconds, "processor_seconds": processor, "ids": [one.ids for one in completions],
        **_gaps(given, completions),
    }  # fmt: skip


def theirs(given: Task, mode: str, lengths: list[int], batches: list[int]) -> dict[str, Any]:
    """`generate` with padding on the left and its cache, whole or in batches of prompts of about one length."""
    rows = GROUP if mode == "sampled" else 1
    best: dict[str, Any] = {}
    for size in batches:
        _generate(given, mode, lengths, size // rows, new_tokens=4)
        seconds, processor, ids = timed(lambda size=size: _generate(given, mode, lengths, size // rows, NEW_TOKENS))
        if not best or processor < best["processor_seconds"]:
            best = {"seconds": seconds, "processor_seconds": processor, "ids": ids, "batch": size}
    return best


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds, processor seconds, result)."""
    began, processor = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - began, time.process_time() - processor, found


def _generate(given: Task, mode: str, lengths: list[int], prompts_at_once: int, new_tokens: int) -> list[list[int]]:
    prompts, model, chat = given.prompts, given.policy.model, given.policy.chat
    rows = GROUP if mode == "sampled" else 1
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), prompts_at_once):
        chunk = order[start : start + prompts_at_once]
        width = max(len(prompts[index]) for index in chunk)
        ids = torch.tensor([[chat.pad_id] * (width - len(prompts[index])) + prompts[index] for index in chunk])
        mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in chunk])
        places = [index * rows + sample for index in chunk for sample in range(rows)]
        ends = torch.tensor([lengths[place] for place in places])
        how: dict[str, Any] = {"do_sample": False, "eos_token_id": chat.stop_id}
        if mode == "sampled":
            how = {
                "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": rows,
                "eos_token_id": None, "stopping_criteria": [EndsAt(width + ends, chat.stop_id)],
            }  # fmt: skip
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=chat.pad_id, **how
            )
        for place, row, end in zip(places, output[:, width:].tolist(), ends.tolist(), strict=True):
            found[place] = row[:end]
    return [found[place] for place in sorted(found)]


class EndsAt:
    """A criterion of transformers: each row ends at a length of its own and is padded from there, as after its stop."""

    def __init__(self, ends: Tensor, eos_token_id: int) -> None:
        self._ends = ends
        self.eos_token_id = torch.tensor([eos_token_id])  # by its presence finished rows are padded

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return input_ids.shape[1] >= self._ends


@torch.no_grad()
def _gaps(given: Task, completions: list[Completion]) -> dict[str, float]:
    """How far log-probabilities as sampled are from the trainer's: the largest gap, and the share beyond 1e-5. And the
    largest of the trainer's own from those of the same weights in float64: what single precision leaves open."""
    gaps, rounded = [], []
    precise = copy.deepcopy(given.policy.model).double()
    for start in range(0, len(completions), 64):
        some = completions[start : start + 64]
        rows = [(given.prompts[one.prompt_index], one.ids) for one in some]
        batch = collate(
            [(prompt + ids, [False] * len(prompt) + [True] * len(ids)) for prompt, ids in rows],
            given.policy.chat.pad_id,
        )
        trainer = token_logprobs(given.policy.model, batch)[batch.loss_mask]
        gaps.append((torch.tensor([value for one in some for value in one.logprobs]) - trainer).abs())
        rounded.append((trainer - token_logprobs(precise, batch)[batch.loss_mask]).abs().max())
    found = torch.cat(gaps)
    beyond = float((found > 1e-5).double().mean())
    return {"gap": float(found.max()), "beyond": beyond, "rounding": float(max(rounded))}


if __name__ == "__main__":
    main()
