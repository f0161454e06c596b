"""TRL's trainers of given rows, each with its own loss that saves memory where it has one (SFT and DPO by default)."""

from typing import Any

import trl
from datasets import Dataset

from bench.speed.rows import steps_of
from bench.speed.theirs.common import Inputs, Ticks, count_rows, main

ORDERED = {"train_sampling_strategy": "sequential"}


def run(inputs: Inputs) -> Any:
    """Train on the rows in their order; the trainer afterwards."""
    rows = [row for step in steps_of(inputs.cell, inputs.folder) for row in step]
    trainer = {"sft": sft, "reward": reward, "dpo": dpo}[inputs.cell.stage](inputs, rows)
    count_rows(trainer, inputs.clock)
    trainer.train()
    return trainer


def sft(inputs: Inputs, rows: list[dict[str, list[int]]]) -> Any:
    """Padded: with `padding_free`, where a mask over all of a batch keeps rows apart, the tiny model took 2.8 times as
    long on a processor.
    """
    masked = [
        {"input_ids": row["prompt"] + row["chosen"], "labels": [-100] * len(row["prompt"]) + row["chosen"]}
        for row in rows
    ]
    return _made(trl.SFTTrainer, inputs, inputs.policy(), trl.SFTConfig, masked)


def reward(inputs: Inputs, rows: list[dict[str, list[int]]]) -> Any:
    """Padded: it knows no other way."""
    sides = [
        {"chosen_ids": row["prompt"] + row["chosen"], "rejected_ids": row["prompt"] + row["rejected"]} for row in rows
    ]
    return _made(trl.RewardTrainer, inputs, inputs.scorer(), trl.RewardConfig, sides)


def dpo(inputs: Inputs, rows: list[dict[str, list[int]]]) -> Any:
    """Padded; the reference is asked once, before the steps, as ours is. It takes text alone, so rows are written."""

    def text(ids: list[int]) -> str:
        return " ".join(inputs.tokenizer.convert_ids_to_tokens(ids))

    written = [
        {"prompt": text(row["prompt"])} | {side: " " + text(row[side][:-1]) for side in ("chosen", "rejected")}
        for row in rows
    ]
    beforehand = {"precompute_ref_log_probs": True}
    trainer = _made(trl.DPOTrainer, inputs, inputs.policy(), trl.DPOConfig, written, beforehand, beta=0.1)
    read = trainer.train_dataset
    for side in ("prompt", "chosen", "rejected"):
        assert list(read[f"{side}_ids"]) == [row[side] for row in rows], f"TRL reads another {side}"
    return trainer


def _made(
    kind: Any, inputs: Inputs, model: Any, config: Any, rows: list[dict[str, Any]], tuned: Any = None, **knobs: Any
) -> Any:
    return kind(
        model=model,
        args=inputs.settings(config, ORDERED | (tuned or {}), max_length=None, **knobs),
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
        peft_config=inputs.adapter(),
        callbacks=[Ticks(inputs.clock)],
    )


if __name__ == "__main__":
    main(run)
