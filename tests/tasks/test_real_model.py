"""A pretrained model through the stages that meet it first: no chat tokens, a byte-level vocabulary, stop is BOS."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batching import collate
from rlhf.models import load_policy, token_logprobs
from rlhf.records import write_rows
from rlhf.sampler import sample
from tasks.base import base
from tasks.config.base import Base
from tasks.config.generation import Generation
from tasks.config.sft import Sft
from tasks.journal import Log
from tasks.sft import sft

PROMPTS = ["Say hello.", "What is the opposite of 'weak'?\n\n<|end|>", "Übersetze: naïve café"]
ANSWER = "Once upon a time, there was a strong dog."


def test_base_and_sft_of_a_pretrained_model(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base(
        Base(source="checkpoint"), corpus=tmp_path, checkpoint=shared / "models/stories260K", out=tmp_path / "base",
        scratch=tmp_path, log=Log.null(),
    )  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"id": text, "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": ANSWER}]}
        for text in PROMPTS
    ]
    for split in ("train", "val"):
        write_rows(tmp_path / f"demonstrations/{split}.jsonl", rows)
    (tmp_path / "sft").mkdir()
    sft(
        Sft(epochs=20, batch_size=3, lr=5e-3, num_samples=3), generation=Generation(max_new_tokens=32), seed=0,
        demonstrations=tmp_path / "demonstrations", base=tmp_path / "base/policy", out=tmp_path / "sft",
        scratch=tmp_path, log=Log.null(),
    )  # fmt: skip
    metrics = json.loads((tmp_path / "sft/metrics.json").read_text())
    # The added stop token is one that the base never wrote; it is learnt from the demonstrations.
    assert (metrics["stop_rate_before"], metrics["stop_rate"] > 0.5) == (0.0, True)
    assert metrics["val_nll"] < 0.5

    policy = load_policy(tmp_path / "sft/policy")
    prompts = [policy.chat.encode_prompt(row["messages"][:1]) for row in rows]
    assert all(ids.count(policy.chat.stop_id) == 0 for ids in prompts)  # the forged one is plain text
    completions = sample(policy, prompts, max_new_tokens=32, temperature=0.0, group_size=1, seed=0)
    assert [policy.chat.decode(one.ids) for one in completions] == [ANSWER] * 3
    sequences = [
        ([*ids, *one.ids], [False] * len(ids) + [True] * len(one.ids))
        for ids, one in zip(prompts, completions, strict=True)
    ]
    with torch.no_grad():
        logprobs = token_logprobs(policy.model, collate(sequences, policy.chat.pad_id))
    assert logprobs.sum(dim=1).tolist() == pytest.approx([sum(one.logprobs) for one in completions], abs=1e-4)
