"""Training a reward model on comparisons: Bradley-Terry, and a language-model loss that keeps what SFT knew."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from rlhf.checkpoints import Checkpoints
from rlhf.comparisons import ComparisonBatch, Comparisons, comparison_batch, comparison_micro_batches
from rlhf.epochs import num_steps, rows_at
from rlhf.losses.reward import bradley_terry
from rlhf.models import RewardModel
from rlhf.models.ensembles import RewardEnsemble
from rlhf.optimizer import OptimizerSettings
from rlhf.scoring import by_batch
from rlhf.trainer import FitResult, Metrics, Progress, StepBatch, fit


def fit_reward_model(
    reward_model: RewardModel,
    prompts: Sequence[Comparisons],
    *,
    epochs: int,
    batch_size: int,
    max_batch_tokens: int,
    lm_coef: float,
    centring: float,
    margin_coef: float = 0.0,
    weigh_by: Literal["pair", "prompt"] = "pair",
    optimizer: OptimizerSettings,
    seed: int,
    name: str,
    checkpoints: Checkpoints | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Minimise mean over pairs of −log σ(r_c − r_r − margin_coef · m) + lm_coef · NLL per token of the chosen side.

    `optimizer.lr` names the rates of `backbone` and `heads`: the heads are new and the pairs few, so theirs is higher.
    At a rate of 0 the backbone stays as it is, and the heads learn to read it (a probe): for few pairs that is often
    best. Raises ValueError where `lm_coef` asks for more.
    All pairs of a prompt are in one step and each completion is computed once. `weigh_by` says what counts alike: every
    pair, or every prompt with its C pairs at 1/C each (InstructGPT, 2203.02155), so that prompts with many completions
    do not outweigh the others. The second term is an auxiliary task (after Yang et al., "Regularizing Hidden States",
    2406.10216): without it a small model forgets how answers read.
    """

    def batch_at(step: int) -> StepBatch[ComparisonBatch]:
        chosen = [prompts[row] for row in rows_at(step, len(prompts), batch_size, seed)]
        parts = comparison_micro_batches(chosen, max_batch_tokens)
        return StepBatch(
            [comparison_batch([chosen[row] for row in part], reward_model.chat.pad_id) for part in parts],
            denominator=sum(len(one.pairs) for one in chosen) if weigh_by == "pair" else len(chosen),
        )

    return fit(
        trained_of(reward_model, optimizer, lm_coef),
        steps=num_steps(len(prompts), batch_size, epochs),
        batch_at=batch_at,
        loss=loss_of(reward_model, lm_coef, centring, margin_coef, weigh_by),
        optimizer=optimizer,
        seed=seed,
        name=name,
        checkpoints=checkpoints,
        log=log,
        progress=progress,
    )


def loss_of(
    reward_model: RewardModel,
    lm_coef: float,
    centring: float,
    margin_coef: float = 0.0,
    weigh_by: Literal["pair", "prompt"] = "pair",
) -> Callable[[ComparisonBatch], tuple[Tensor, Metrics]]:
    """`loss` for `fit`, of the pairs of some prompts; see `fit_reward_model`."""

    def loss(part: ComparisonBatch) -> tuple[Tensor, Metrics]:
        scores, logprobs = reward_model.scores_and_logprobs(part.batch) if lm_coef else (reward_model(part.batch), None)
        margin = margin_coef * part.margin if margin_coef else None
        losses, metrics = bradley_terry(scores[part.chosen], scores[part.rejected], margin, centring)
        if logprobs is not None:
            nll = -(logprobs.sum(dim=1) / part.batch.loss_mask.sum(dim=1))[part.chosen]
            losses = losses + lm_coef * nll
            metrics["chosen_nll"] = nll.detach()
        return (losses if weigh_by == "pair" else losses * part.share).sum(), metrics

    return loss


def trained_of(reward_model: RewardModel, optimizer: OptimizerSettings, lm_coef: float) -> dict[str, nn.Module]:
    """What the optimiser has; of a backbone at rate 0 no gradient is computed, a third of the work is left."""
    readers = filter(None, (reward_model.head, reward_model.token_head))
    heads: dict[str, nn.Module] = {"heads": nn.ModuleList(readers)}
    rate = optimizer.lr["backbone"] if isinstance(optimizer.lr, Mapping) else optimizer.lr
    if rate:
        return {"backbone": reward_model.model} | heads
    if lm_coef:
        raise ValueError(f"lm_coef is {lm_coef} and the backbone's learning rate 0: nothing would learn from that loss")
    reward_model.model.requires_grad_(False)
    return heads


def normalise_on(
    reward_model: RewardModel | RewardEnsemble,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_batch_tokens: int,
) -> None:
    """Shift and scale the scores to mean 0 and standard deviation 1 over these (prompt ids, completion ids)."""
    scores = by_batch(reward_model, texts, reward_model.chat.pad_id, max_batch_tokens)
    reward_model.normalise(scores.mean().item(), scores.std(correction=0).item())
