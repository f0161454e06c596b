"""Supervised learning, reward models and direct alignment: a batch through the trainer's collator into its loss."""

from typing import Any

import trl
from datasets import Dataset

from bench.parity.cases import Case
from bench.parity.theirs.common import DUMMY_TEXT, Inputs, Result, backward, settings

LOSS_TYPES: dict[str, dict[str, Any]] = {
    "DPO": {"loss_type": "sigmoid"},
    "DPO norm": {"loss_type": "sigmoid_norm"},
    "DPO + NLL": {"loss_type": ["sigmoid", "sft"]},
    "IPO": {"loss_type": "ipo"},
    "ORPO": {},
    "SimPO": {"loss_type": "simpo", "cpo_alpha": 0.0},
}


def sft(case: Case, inputs: Inputs, folder: str) -> Result:
    rows = [
        {"input_ids": row["prompt"] + row["chosen"], "labels": [-100] * len(row["prompt"]) + row["chosen"]}
        for row in inputs.batches[case.batch]
    ]
    trainer = trl.SFTTrainer(
        model=inputs.policy(),
        args=settings(trl.SFTConfig, folder, max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
    )
    return backward(trainer.model, trainer.compute_loss(trainer.model, trainer.data_collator(rows)))


def reward(case: Case, inputs: Inputs, folder: str) -> Result:
    rows = [
        {"chosen_ids": row["prompt"] + row["chosen"], "rejected_ids": row["prompt"] + row["rejected"]}
        for row in inputs.batches[case.batch]
    ]
    trainer = trl.RewardTrainer(
        model=inputs.scorer("reward"),
        args=settings(trl.RewardConfig, folder, max_length=None, **case.knobs),
        train_dataset=Dataset.from_list(rows),
        processing_class=inputs.tokenizer,
    )
    return backward(trainer.model, trainer.compute_loss(trainer.model, trainer.data_collator(rows)))


def paired(case: Case, inputs: Inputs, folder: str) -> Result:
    """DPO's family in DPOTrainer."""
    rows = [
        {"prompt_ids": row["prompt"], "chosen_ids": row["chosen"], "rejected_ids": row["rejected"]}
        for row in inputs.batches[case.batch]
    ]
    trainer = trl.DPOTrainer(
        model=inputs.policy(),
        ref_model=inputs.policy("reference"),
        args=settings(trl.DPOConfig, folder, max_length=None, **LOSS_TYPES[case.method], **case.knobs),
        train_dataset=Dataset.from_list([{"prompt": DUMMY_TEXT, "chosen": DUMMY_TEXT, "rejected": DUMMY_TEXT}]),
        processing_class=inputs.tokenizer,
    )
    return backward(trainer.model, trainer.compute_loss(trainer.model, trainer.data_collator(rows)))


def kto(case: Case, inputs: Inputs, folder: str) -> Result:
    rows = inputs.batches[case.batch]
    completions = [row["completion"] for row in rows]
    # KTOTrainer rotates the completions of a batch when it prepares a data set.
    mismatched = inputs.batches["mismatched"] if case.changed else completions[-1:] + completions[:-1]
    rows = [
        {
            "prompt_ids": row["prompt"],
            "completion_ids": row["completion"],
            "KL_completion_ids": other,
            "label": row["label"],
        }
        for row, other in zip(rows, mismatched, strict=True)
    ]
    trainer = trl.KTOTrainer(
        model=inputs.policy(),
        ref_model=inputs.policy("reference"),
        args=settings(trl.KTOConfig, folder, max_length=None, per_device_train_batch_size=len(rows), **case.knobs),
        train_dataset=Dataset.from_list(
            [{"prompt": DUMMY_TEXT, "completion": DUMMY_TEXT, "label": label} for label in (True, False)]
        ),
        processing_class=inputs.tokenizer,
    )
    return backward(trainer.model, trainer.compute_loss(trainer.model, trainer.data_collator(rows)))


def without_reference(case: Case, inputs: Inputs, folder: str) -> Result:
    """ORPO and SimPO (a loss type of CPO): trainers of the older kind, which collate tokenised columns."""
    if case.method == "ORPO":
        from trl.experimental.orpo import ORPOConfig as Config
        from trl.experimental.orpo import ORPOTrainer as Trainer
    else:
        from trl.experimental.cpo import CPOConfig as Config
        from trl.experimental.cpo import CPOTrainer as Trainer
    rows = []
    for row in inputs.batches[case.batch]:
        columns = {"prompt_input_ids": row["prompt"], "prompt_attention_mask": [1] * len(row["prompt"])}
        for side in ("chosen", "rejected"):
            ids = row["prompt"] + row[side]
            columns |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids)}
            columns[f"{side}_labels"] = [-100] * len(row["prompt"]) + row[side]
        rows.append(columns)
    trainer = Trainer(
        model=inputs.policy(),
        args=settings(
            Config, folder, max_length=64, remove_unused_columns=False, **LOSS_TYPES[case.method], **case.knobs
        ),
        train_dataset=Dataset.from_list([{"prompt": DUMMY_TEXT, "chosen": DUMMY_TEXT, "rejected": DUMMY_TEXT}]),
        processing_class=inputs.tokenizer,
    )
    return backward(trainer.model, trainer.compute_loss(trainer.model, trainer.data_collator(rows)))
