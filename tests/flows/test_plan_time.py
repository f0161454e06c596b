"""How long `preflow plan` says that stages take: by their operations, at rates that were measured or assumed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.plan import flops as plan_flops
from flows.plan import measured
from flows.plan import time as plan_time
from flows.plan.card import Card
from flows.plan.data import Facts
from flows.plan.flops import Work
from flows.plan.passes import Lengths
from flows.plan.time import Time
from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.models import token_logprobs
from rlhf.sizes import How, Sizes
from rlhf.spending import ACCOUNT
from tasks import reward_model
from tasks.config.params import Params
from tasks.graph import Stage
from tests.flows.test_plan import by_stage, planned, project
from tests.rlhf.conftest import WORDS, tiny_llama

__all__ = ["project"]
CARD = Card("a card", 24e9, 2)
COST = {"seconds": 100.0, "seconds_train": 60.0, "seconds_score": 4.0, "seconds_sample": 30.0, "seconds_save": 1.0}


def work(module: str, cmd: str = "", rows: int = 100, **changes: Any) -> Work | None:
    values = Params().model_dump(by_alias=True)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section][name] = value
    data = Facts(Lengths(((6.0, 10.0),) * rows if rows else ((6.0, 10.0),)), rows)
    sizes = Sizes(24, 32, 2, 4, 4, 8, 48, tied=True)
    return plan_flops.work_of(Stage(module, cmd, (), (), ()), module, values[module], values, data, sizes, How())


def test_operations_are_those_that_the_cost_report_charges() -> None:
    """100 rows of a prompt of 6 and an answer of 10 tokens, twice, through a model of these sizes."""
    policy = tiny_llama(Chat.from_words(WORDS))
    policy.model.requires_grad_(True)
    config = policy.model.config
    sizes = Sizes(
        config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads,
        config.num_key_value_heads, config.head_dim, config.intermediate_size, tied=True,
    )  # fmt: skip
    before = ACCOUNT.counts["flops"]
    for row in range(4):
        ids = [3 + (row + place) % 9 for place in range(16)]
        token_logprobs(policy.model, collate([(ids, [False] * 6 + [True] * 10)] * 50, 0)).sum().backward()
    charged = ACCOUNT.counts["flops"] - before
    values = Params().model_dump(by_alias=True)
    data = Facts(Lengths(((6.0, 10.0),) * 100), 100)
    said = plan_flops.work_of(Stage("sft", "", (), (), ()), "sft", values["sft"], values, data, sizes, How())
    assert said is not None and said.flops == charged


def test_what_grows_with_what() -> None:
    once, twice = work("sft", sft__epochs=1), work("sft", sft__epochs=2)
    assert once is not None and twice is not None and twice.flops == 2 * once.flops
    frozen, learns = work("reward_model", reward_model__lr=0.0, reward_model__lm_coef=0.0), work("reward_model")
    assert frozen is not None and learns is not None and frozen.flops < 0.5 * learns.flops
    two, three = (work("evaluate", f"--policies {names} --out x") for names in ("a=1", "a=1 b=2"))
    assert two is not None and three is not None and three.sampled == pytest.approx(two.sampled * 4 / 3)
    assert work("sft", rows=0) is None
    assert plan_flops.NUM_SAMPLES == reward_model.NUM_SAMPLES


def test_seconds_are_operations_tokens_and_what_is_around_at_their_rates() -> None:
    done = Work(1e12, 500.0)
    rates = {name: took / planned for name, (planned, took) in plan_time.measured("sft", done, COST).items()}
    assert plan_time.time_of("sft", done, rates, CARD, None) == Time(pytest.approx(100.0))
    larger = plan_time.time_of("sft", Work(3e12, 1000.0), rates, CARD, None)
    assert larger.seconds == pytest.approx(3 * 64 + 2 * 30 + 6)
    assert plan_time.time_of("dpo", done, rates, CARD, None) == Time()  # of another stage nothing is known
    assert plan_time.measured("sft", done, {"peak_memory_gib": 1.0}) == {}
    assert plan_time.measured("sft", done, COST | {"resumed": 1.0}) == {}  # it did not do all of the work


def test_an_assumed_rate_is_marked_and_says_nothing_of_sampling() -> None:
    found = plan_time.time_of("sft", Work(7e15, 500.0), {}, CARD, tflops=100.0)
    assert found == Time(7e15 / (100e12 * 0.35 * 2), assumed=True, without_sampling=True)
    assert plan_time.time_of("sample", Work(0.0, 500.0), {}, CARD, tflops=100.0) == Time()


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (Time(42.4), "42 s"),
        (Time(720.0), "12 min"),
        (Time(12240.0, assumed=True, without_sampling=True), "~3.4 h +"),
        (Time(), "–"),
    ],
)
def test_words(time: Time, words: str) -> None:
    assert plan_time.words(time) == words


def test_times_are_in_the_plan_once_a_run_has_measured_them(project: Path) -> None:
    first = planned()
    assert first["seconds"] is None and by_stage(first)["sft"]["seconds"] is None
    flops = by_stage(first)["sft"]["flops"]
    card = Card(first["card"]["name"], first["card"]["size"], gpu=first["card"]["gpu"])
    sizes, how = Sizes(**first["sizes"]), How(**first["how"])
    name = plan_time.key(measured.key("sft", sizes, how), how, card, Params().threads)
    measured.keep(project, plan_time.measured(name, Work(flops, 2 * 32.0 * 48), COST).items())
    again = planned()
    assert by_stage(again)["sft"]["seconds"] == pytest.approx(100.0)
    longer = by_stage(planned("--set", "sft.epochs=4"))["sft"]["seconds"] - by_stage(again)["sft"]["seconds"]
    assert longer == pytest.approx(64.0)  # two more passes, as long as the first two
    assert again["seconds"] == by_stage(again)["sft"]["seconds"]  # of the other stages nothing is known
    assert by_stage(again)["sft"]["factor"] == 1.0  # a time corrects no memory
    assert by_stage(planned("--gpu", "24GB"))["sft"]["seconds"] is None  # nor another machine


def test_what_the_total_stands_on_is_said(project: Path) -> None:
    del project
    told = CliRunner().invoke(app, ["plan", "--gpu", "80GB", "--tflops", "989"]).stdout
    assert "one after another; without annotate, of which too little is known" in told
    assert "~: assumed, 35% of 989 TFLOP/s" in told and "+: and sampling" in told
    assert "time: no such stages ran on this machine yet" in CliRunner().invoke(app, ["plan"]).stdout
    one = CliRunner().invoke(app, ["plan", "--json", "--gpu", "80GB", "--tflops", "1"])
    assert json.loads(one.stdout)["tflops"] == 1.0


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("words", [["--tflops", "100"], ["--gpu", "80GB", "--tflops", "inf"]])
def test_a_rate_is_one_of_a_gpu(words: list[str]) -> None:
    refused = CliRunner().invoke(app, ["plan", *words])
    assert refused.exit_code != 0 and "expected the rate of a GPU" in str(refused.exception)
