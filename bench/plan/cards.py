"""Four sizes of models on three GPUs: how much each stage takes, and how many of them it takes."""

from typing import Any

from bench.page import table
from bench.speed.store import ROOT
from flows.plan.card import GIB, card_of
from flows.plan.change import HOST, spread
from flows.plan.plan import Plan, plan
from flows.plan.sizes import NAMED
from tasks.config.params import Params
from tasks.graph import Graph, load_graph

CARDS = ("24GB", "80GB", "141GB")
STAGES = ("sft", "reward_model", "dpo", "rl")
RECIPES: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "LoRA": {"method": "lora"},
    "QLoRA": {"method": "qlora"},
}


def cards() -> list[str]:
    """GiB at the peak on one card, and how many cards of each size it takes with the blocks divided among them."""
    graph = load_graph(ROOT)
    header = ["model", "recipe", *(f"{stage}{' (PPO)' if stage == 'rl' else ''}" for stage in STAGES)]
    rows = [
        [shape, name, *(_told(graph, shape, recipe, stage) for stage in STAGES)]
        for shape in NAMED
        for name, recipe in RECIPES.items()
    ]
    return table(header, rows, texts=2)


def _told(graph: Graph, shape: str, recipe: dict[str, Any], stage: str) -> str:
    peak = _plan(graph, shape, recipe, stage, "80GB", 1).lines[0].peak / GIB
    counts = [_count(graph, shape, recipe, stage, card) for card in CARDS]
    return f"{peak:,.0f} → {'/'.join(counts)}"


def _count(graph: Graph, shape: str, recipe: dict[str, Any], stage: str, card: str) -> str:
    count = 1
    while count <= (HOST if recipe["method"] != "qlora" else 1):  # weights in 4 bits are whole in each process
        if _plan(graph, shape, recipe, stage, card, count).lines[0].fits:
            return str(count)
        count *= 2
    return "–"


def _plan(graph: Graph, shape: str, recipe: dict[str, Any], stage: str, card: str, count: int) -> Plan:
    """Rows of up to 1,000 tokens, 4,096 tokens a pass, bfloat16, blocks computed again."""
    values = Params().model_dump(by_alias=True)
    values["training"] |= {"dtype": "bfloat16", "gradient_checkpointing": True, **recipe}
    values["collect"]["source"] = "inbox"  # no data of the embedded world: rows as long as the gate lets through
    values["generation"]["max_new_tokens"] = 512
    for section in ("sft", "reward_model", "dpo", "rl"):
        values[section]["max_batch_tokens"] = 4096
    return plan(ROOT / "bench", graph, spread(values, count), card_of(card, count), shape, [stage])
