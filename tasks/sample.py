"""Stage `sample`: N completions a prompt from the SFT policy, scored by what `sample.rewards` weighs, and kept.

In: the policy, the reward model that may be optimised (none where its weight is 0), prompts of the rl pool. Out:
`rollouts/rollouts.jsonl`, one completion a line with token log-probabilities, stop reason and reward; `metrics.json`
with the mean of every component and the reward of the best of n = 1, 2, 4 … N (RLHF book, chapter 9). What to look at:
whether that curve rises, and the spread within a prompt.

    python -m tasks.sample --help
"""

from pathlib import Path

import numpy as np

from rlhf.models import load_policy
from rlhf.records import read_rows, write_json
from rlhf.rewards import Asked
from rlhf.rollouts import Rollout, write_rollouts
from rlhf.selection import best_of_n
from tasks.config.generation import Generation
from tasks.config.sample import Sample
from tasks.graph import digest
from tasks.journal import Log
from tasks.rewards import build
from tasks.sampling import sample_prompts
from tasks.stage import main


def sample(
    config: Sample,
    *,
    generation: Generation,
    seed: int,
    policy: Path,
    reward_model: Path | None = None,
    lexicon: Path | None = None,
    prompts: Path,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Sample, score, keep; the first lines of the module name the files."""
    sampler = load_policy(policy)
    score = build(
        config.rewards,
        generation,
        reward_model,
        sampler.chat,
        lexicon=lexicon,
        max_batch_tokens=config.max_batch_tokens,
        over=sampler,
        replies=scratch / "replies.jsonl",
    )
    sampled = sample_prompts(
        sampler,
        read_rows(prompts / "train.jsonl"),
        generation,
        group_size=config.group_size,
        seed=seed,
        pool="rl",
        limit=config.num_prompts,
        progress=log.progress,
    )
    asked = [Asked.from_row(row, ids) for row, ids in zip(sampled.rows, sampled.prompts, strict=True)]
    scored = score(asked, sampled.completions)
    rewards = scored.total.tolist()
    version = digest(policy)[:16]
    rollouts = [
        Rollout(
            prompt_id=sampled.rows[one.prompt_index]["id"],
            group=sampled.rows[one.prompt_index]["group"],
            prompt_ids=sampled.prompts[one.prompt_index],
            completion_ids=one.ids,
            logprobs=one.logprobs,
            stop_reason=one.stop_reason,
            text=sampler.chat.decode(one.ids),
            reward=reward,
            policy=version,
        )
        for one, reward in zip(sampled.completions, rewards, strict=True)
    ]
    write_rollouts(out / "rollouts" / "rollouts.jsonl", rollouts)
    metrics = _metrics(rollouts, np.array(rewards).reshape(-1, config.group_size)) | sampled.dropped | scored.figures
    metrics |= {f"reward_{name}": values.mean().item() for name, values in scored.components.items()}
    log({f"sample/{name}": value for name, value in metrics.items()}, 0)
    write_json(out / "metrics.json", metrics)


def _metrics(rollouts: list[Rollout], rewards: np.ndarray) -> dict[str, float]:
    """`rewards` [P, N]; best of n is the expected reward of the best of n drawn from the N."""
    sizes = [2**power for power in range(rewards.shape[1].bit_length()) if 2**power <= rewards.shape[1]]
    return {
        "prompts": float(rewards.shape[0]),
        "completions_per_prompt": float(rewards.shape[1]),
        "reward": float(rewards.mean()),
        "reward_std_within_prompt": float(rewards.std(axis=1).mean()),
        "zero_std_groups": float((rewards.max(axis=1) == rewards.min(axis=1)).mean()),
        "length": float(np.mean([len(one.completion_ids) for one in rollouts])),
        "stop_rate": float(np.mean([one.stop_reason == "stop" for one in rollouts])),
    } | {f"best_of_{n}_reward": float(best_of_n(rewards, rewards, n).mean()) for n in sizes}


if __name__ == "__main__":
    main(sample)
