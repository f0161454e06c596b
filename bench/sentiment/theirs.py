"""TRL's side: RLOOTrainer with the same reward, openings and budget, and what makes it fast on a processor switched on.

Its environment is that of bench/parity/setup.sh:  .venv-trl/bin/python -m bench.sentiment.theirs FOLDER SEED
"""

from bench.sentiment.task import STOP, Budget, Clock, lexicon, model_folder, openings

CLOCK = Clock()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import RLOOConfig, RLOOTrainer  # noqa: E402

from rlhf.sentiment import compound  # noqa: E402


def train(out: Path, seed: int) -> None:
    """Write the last policy to `out`/policy, in Hugging Face's layout."""
    budget, (texts, _), words = Budget(), openings(), lexicon()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), eos_token=STOP, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)

    def reward(completions: list[str], **_: object) -> list[float]:
        return [compound(text, words) for text in completions]

    trainer = RLOOTrainer(
        model=model,
        args=RLOOConfig(
            output_dir=str(out / "trainer"),
            max_steps=budget.updates,
            per_device_train_batch_size=budget.prompts * budget.group_size,
            num_generations=budget.group_size,
            steps_per_generation=1,
            max_completion_length=budget.new_tokens,
            learning_rate=budget.lr,
            warmup_steps=budget.warmup,
            adam_beta2=budget.beta2,
            adam_epsilon=budget.eps,
            beta=budget.kl_coef,
            normalize_advantages=True,
            temperature=1.0,
            seed=seed,
            # Their defaults would spend time: recomputed activations, half precision that this processor emulates.
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=5,
        ),
        reward_funcs=reward,
        # Their tokenizer adds no begin token by itself; ours does.
        train_dataset=Dataset.from_list([{"prompt": f"{STOP}{text}"} for text in texts]),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(out / "policy"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    train(folder, int(sys.argv[2]))
    CLOCK.write(folder / "seconds.json")
