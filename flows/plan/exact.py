"""`preflow plan --exact`: what training keeps, counted by running its own first step on weights that have no data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.plan.asked import beside
from flows.plan.plan import Line, Plan
from flows.plan.sizes import folder_of
from flows.plan.stages import module_of
from rlhf import footprint
from rlhf.footprint import Terms, total
from rlhf.sizes import How, Sizes
from tasks.graph import Stage


@dataclass(frozen=True)
class Exact:
    """What is known of the training of one stage."""

    formula: float
    """Bytes that the formulas say."""
    terms: Terms | None
    """Bytes that were counted; None where it was not run."""
    why: str = ""
    """Why it was not run."""


def count(
    plan: Plan,
    stages: Mapping[str, Stage],
    values: Mapping[str, Any],
    model: Mapping[str, Any] | Path,
    say: Callable[[str], None],
) -> dict[str, Exact]:
    """By stage, of all that train; `model` is what `model_of` gives."""
    trained = [line for line in plan.lines if line.need.work is not None]
    found = {}
    for number, line in enumerate(trained, start=1):
        name = line.need.stage
        say(f"{name}: first step on weights without data, {number} of {len(trained)}")
        found[name] = _of(plan, line, stages[name], values, model)
    return found


def model_of(root: Path, base: Mapping[str, Any], sizes: Sizes, shape: str) -> Mapping[str, Any] | Path:
    """The folder of the model's config.json where there is one, else sizes as transformers' Llama names them."""
    folder = None if shape else folder_of(root, base)
    return folder or {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_size,
        "intermediate_size": sizes.intermediate,
        "tie_word_embeddings": sizes.tied,
        "max_position_embeddings": 2**20,
    }


def _of(plan: Plan, line: Line, stage: Stage, values: Mapping[str, Any], model: Mapping[str, Any] | Path) -> Exact:
    named = module_of(stage)
    assert named is not None and line.need.work is not None
    formula = total(line.need.moments["training"])
    how = How(cuda=plan.card.gpu) if named[0] == "base" else plan.how
    if why := _impossible(how):
        return Exact(formula, None, why)
    from tasks.config.params import Params
    from tasks.first_step import Asked, kept

    work = line.need.work
    asked = Asked(
        *named, Params.model_validate(values), model, plan.card.gpu, work.rows, work.several,
        beside(named[0], stage, values),
    )  # fmt: skip
    try:
        found = kept(asked)
    except Exception as error:  # a model whose code reads its data, a torch without fake tensors: the formula stays
        said = next(iter(str(error).splitlines()), "")
        return Exact(formula, None, f"{type(error).__name__}: {said}")
    heap = footprint.heap(plan.sizes, how, work)
    return Exact(formula, _terms(found.together, found.most, line.need.moments["training"], how, heap))


def _impossible(how: How) -> str:
    if how.method == "qlora":
        return "training.method=qlora: bitsandbytes' kernels need weights with data"
    if how.optimizer == "adamw_8bit":
        return "training.optimizer=adamw_8bit: bitsandbytes' kernels need weights with data"
    if how.shards > 1:
        return f"training.shard: {how.shards} processes divide the blocks, and this is one"
    return ""


def _terms(
    together: Mapping[str, int], most: Mapping[str, int], said: Terms, how: How, heap: tuple[float, float]
) -> Terms:
    """On a GPU what was there together. On a processor as the formulas have it: all gradients, and the heap's holes."""
    beside = {"other models": float(together.get("others", 0))}
    if how.cuda:
        kinds = {name: float(together.get(name, 0)) for name in ("weights", "moments", "gradients")}
        return kinds | {"activations": float(together.get("rest", 0))} | beside
    held_on, late = heap
    kinds = {name: float(most.get(name, 0)) for name in ("weights", "moments")}
    kinds |= {"gradients": late * most.get("gradients", 0)}
    activations = max(0.0, most.get("rest", 0) - said["logits"])
    return kinds | {"activations": held_on * activations, "logits": said["logits"]} | beside
