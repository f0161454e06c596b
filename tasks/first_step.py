"""A training stage's first step on a model without data: what its own code keeps in memory, tensor by tensor.

Model, adapters, optimiser, loss and recomputing are those that the stage runs with; weights have shapes and no memory
(`rlhf.ledger`). Rows are random ids of given lengths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from rlhf import online, reward_training, supervised
from rlhf.algorithms import ALGORITHMS, Experience
from rlhf.batching import Batch, collate
from rlhf.comparisons import Comparisons, comparison_batch
from rlhf.lanes import one_lane
from rlhf.ledger import Weightless
from rlhf.models import ValueModel, logprobs, logprobs_and_entropy
from rlhf.optimizer import OptimizerSettings
from rlhf.preferences import Labelled, example_batch
from rlhf.trainer import Metrics, StepBatch, fit
from tasks.config.algorithms.direct import Kto
from tasks.config.algorithms.on_policy import OnPolicy
from tasks.config.params import Params
from tasks.dpo_losses import MicroBatch
from tasks.dpo_losses import loss_of as direct_loss
from tasks.weightless import Models

Row = tuple[int, float, float]
"""Number of its prompt, which rows share, and tokens of prompt and answer."""


@dataclass(frozen=True)
class Asked:
    """What is run."""

    module: str
    """Of the stage."""
    section: str
    """Of params.yaml."""
    params: Params
    model: Mapping[str, Any] | Path
    """Sizes as transformers' Llama names them, or the folder of a config.json."""
    cuda: bool
    rows: Sequence[Row]
    """Of one pass."""
    several: bool
    """Whether a step has several passes."""
    beside: Sequence[str] = ()
    """Models in memory that are not trained: `policy` or `reward`."""


ADAMW = OptimizerSettings(lr=1e-3)


@dataclass(frozen=True)
class _Training:
    modules: dict[str, nn.Module]
    loss: Callable[[Any], tuple[Tensor, Metrics]]
    part: Any
    """The micro-batch."""
    optimizer: OptimizerSettings = ADAMW


@dataclass(frozen=True)
class Kept:
    """Bytes by kind (`rlhf.ledger.Kind`)."""

    together: Mapping[str, int]
    """When all were at their most."""
    most: Mapping[str, int]
    """Each at its own most."""


def kept(asked: Asked) -> Kept:
    """What training holds in a step, the optimiser's moments from its beginning.

    Raises PreflowError where this torch, or this model, cannot be run so.
    """
    ledger = Weightless()
    models = Models(ledger, asked.params.training, asked.model, asked.cuda, alone=asked.module == "base")
    training = TRAININGS[asked.module](asked, models)
    beside = [models.beside(kind, asked.params.reward_model.reads) for kind in asked.beside]
    for one in training.modules.values():
        ledger.claim_model("weights", one)
    models.claim()
    for model in beside:
        ledger.claim("others", [one for one in (*model.parameters(), *model.buffers()) if not models.has(one)])

    with _as_there(asked.cuda), one_lane(), ledger:
        fit(
            training.modules,
            steps=1,
            batch_at=lambda _: StepBatch([training.part] * (2 if asked.several else 1), denominator=1.0),
            loss=training.loss,
            optimizer=training.optimizer,
            seed=0,
            name="exact",
        )
    together, most = ({str(kind): size for kind, size in one.items()} for one in (ledger.peak, ledger.most))
    return Kept(together, most)


@contextmanager
def _as_there(cuda: bool) -> Iterator[None]:
    """Fake tensors lie on a processor, for which log-probabilities are worked out in smaller blocks than on a GPU."""
    before = logprobs.VALUES_AT_ONCE
    logprobs.VALUES_AT_ONCE = logprobs.ON_A_GPU if cuda else before
    try:
        yield
    finally:
        logprobs.VALUES_AT_ONCE = before


def _supervised(asked: Asked, models: Models) -> _Training:
    policy = models.trained()
    muon = asked.params.base.matrix_lr if asked.module == "base" else None
    optimizer = OptimizerSettings(lr=1e-3, matrix_lr=muon)
    return _Training({"policy": policy.model}, supervised.loss_of(policy), _batch(asked, models), optimizer)


def _reward_model(asked: Asked, models: Models) -> _Training:
    config = asked.params.reward_model
    reward_model = models.reward_model(models.trained(), config.reads)
    optimizer = OptimizerSettings(lr={"backbone": config.lr, "heads": config.head_lr})
    modules = reward_training.trained_of(reward_model, optimizer, config.lm_coef)
    loss = reward_training.loss_of(
        reward_model, config.lm_coef, config.centring, config.margin_coef, weigh_by=config.weigh_by
    )
    compared = [
        Comparisons(str(number), prompt, completions, [(0, 1)])
        for number, (prompt, completions) in enumerate(_prompts(asked, models))
    ]
    return _Training(modules, loss, comparison_batch(compared, models.chat.pad_id), optimizer)


def _dpo(asked: Asked, models: Models) -> _Training:
    policy, algorithm = models.trained(), getattr(asked.params.algorithms, asked.params.dpo.algorithm)
    pairs = [
        (Labelled(prompt, completions[0], True), Labelled(prompt, completions[1], False))
        for prompt, completions in _prompts(asked, models)
    ]
    alone = [(one,) for pair in pairs for one in pair]
    batch, desirable = example_batch(alone if isinstance(algorithm, Kto) else pairs, models.chat.pad_id)
    part = MicroBatch(batch, desirable, torch.zeros(len(desirable)), 0.0)

    def loss(micro_batch: MicroBatch) -> tuple[Tensor, Metrics]:
        values, metrics = direct_loss(algorithm, policy.model, micro_batch)
        return values.sum(), metrics

    return _Training({"policy": policy.model}, loss, part)


def _rl(asked: Asked, models: Models) -> _Training:
    name, generation = getattr(asked.params, asked.section).algorithm, asked.params.generation
    config: OnPolicy = getattr(asked.params.algorithms, name)
    method = ALGORITHMS[name](**config.knobs(), fixed_length=generation.max_new_tokens)
    policy = models.trained()
    modules: dict[str, nn.Module] = {"policy": policy.model}
    critic = models.made(lambda: ValueModel(models.trained("value").model)) if method.critic else None
    if critic is not None:
        modules["value"] = critic
    batch = _batch(asked, models)
    nothing = torch.zeros(batch.input_ids.shape)
    experience = Experience(
        batch, nothing, nothing, nothing, kl_coef=1.0, fresh=False,
        old_values=nothing if critic else None,
        returns=nothing if critic else None,
        importance=nothing if config.importance_cap else None,
    )  # fmt: skip

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        return logprobs_and_entropy(policy.model, batch, generation.temperature)

    return _Training(modules, online.loss_of(method, forward, critic), experience)


TRAININGS: Mapping[str, Callable[[Asked, Models], _Training]] = {
    "base": _supervised,
    "sft": _supervised,
    "rejection_sampling": _supervised,
    "reward_model": _reward_model,
    "dpo": _dpo,
    "rl": _rl,
}
"""By module; the other stages train nothing."""


def _batch(asked: Asked, models: Models) -> Batch:
    sequences = [
        ([*prompt, *ids], [False] * max(1, len(prompt)) + [True] * (len(ids) - (not prompt)))
        for prompt, completions in _prompts(asked, models)
        for ids in completions
    ]
    return collate(sequences, models.chat.pad_id)


def _prompts(asked: Asked, models: Models) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts and their answers, of random ids."""
    draw = Random(0)

    def ids(count: float) -> list[int]:
        return [draw.randrange(models.vocab) for _ in range(round(count))]

    found: dict[int, tuple[list[int], list[list[int]]]] = {}
    for number, prompt, answer in asked.rows:
        found.setdefault(number, (ids(prompt), []))[1].append(ids(max(2, answer)))
    return list(found.values())
