"""One reward model, trained with the settings of section `reward_model`: for that stage, and for the folds."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.checkpoints import Checkpoints
from rlhf.comparisons import Comparisons
from rlhf.models import RewardModel
from rlhf.optimizer import OptimizerSettings
from rlhf.reward_training import fit_reward_model
from rlhf.trainer import FitResult
from tasks.config.reward_model import RewardModel as Config
from tasks.config.training import FULL, Training
from tasks.journal import Log


def fit_member(
    config: Config,
    model: RewardModel,
    prompts: Sequence[Comparisons],
    *,
    seed: int,
    name: str,
    scratch: Path,
    log: Log,
    training: Training = FULL,
) -> FitResult:
    """Train `model` in place; `name` tells its checkpoints and its random stream from those of others."""
    return fit_reward_model(
        model,
        prompts,
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_batch_tokens=config.max_batch_tokens,
        lm_coef=config.lm_coef,
        centring=config.centring,
        margin_coef=config.margin_coef,
        weigh_by=config.weigh_by,
        optimizer=OptimizerSettings(
            lr={"backbone": config.lr, "heads": config.head_lr},
            warmup_steps=config.warmup_steps,
            schedule="cosine",
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            kind=training.optimizer,
            shard=training.shard,
        ),
        seed=seed,
        name=name,
        checkpoints=Checkpoints(
            scratch / f"checkpoints-{name}",
            every=config.checkpoint_every,
            of={"vocabulary": model.chat.fingerprint},
        ),
        log=log,
        progress=log.progress,
    )
