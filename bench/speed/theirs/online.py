"""GRPOTrainer and RLOOTrainer: one optimiser step on each batch of rollouts, KL to the reference, a reward by rule."""

from typing import Any

import trl
from datasets import Dataset

from bench.speed.rows import steps_of
from bench.speed.theirs.common import Inputs, Ticks, main
from rlhf.sentiment import compound, read_lexicon


def run(inputs: Inputs) -> Any:
    """Train; the trainer afterwards."""
    cell, clock, tokenizer = inputs.cell, inputs.clock, inputs.tokenizer
    rows = [row for step in steps_of(cell, inputs.folder) for row in step]
    prompts = [" ".join(tokenizer.convert_ids_to_tokens(row["prompt"])) for row in rows]
    for row, prompt in zip(rows, prompts, strict=True):
        assert tokenizer(prompt)["input_ids"] == row["prompt"], "the text of a prompt is not its tokens"
    lexicon = read_lexicon(inputs.folder / "lexicon.txt")

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        clock.tokens += sum(map(len, completion_ids))
        if not clock.first:
            clock.first |= {"tokens": float(clock.tokens), "completions": float(len(completion_ids))}
        return [compound(text, lexicon) for text in completions]

    model = inputs.policy()
    never_stops(model, tokenizer)
    grpo = cell.stage == "grpo"
    trainer = (trl.GRPOTrainer if grpo else trl.RLOOTrainer)(
        model=model,
        args=inputs.settings(
            trl.GRPOConfig if grpo else trl.RLOOConfig,
            per_device_train_batch_size=cell.rows * cell.group,
            num_generations=cell.group,
            steps_per_generation=1,
            max_completion_length=cell.new_tokens,
            beta=0.05,
            temperature=1.0,
            shuffle_dataset=False,
        ),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        peft_config=inputs.adapter(),
        callbacks=[Ticks(clock)],
    )
    trainer.train()
    return trainer


def never_stops(model: Any, tokenizer: Any) -> None:
    """A stop token one past the end of the vocabulary, which the model cannot sample."""
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    assert tokenizer.eos_token_id == model.config.vocab_size
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id


if __name__ == "__main__":
    main(run)
