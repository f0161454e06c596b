"""Laws that hold for whatever hypothesis comes up with: loss masks, overlays of the configuration, the gate."""

import math
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flows import profiles
from rlhf.chat import Chat
from tasks.config.gate import Gate
from tasks.gate import decide
from tests.tasks.scores import healthy, trusted

REPO = Path(__file__).parents[2]
WORDS = [f"w{number}" for number in range(8)]
CHAT = Chat.from_words(WORDS)
SAID = st.lists(st.sampled_from([*WORDS, "<end>", "<bot>", "unheard"]), max_size=5).map(" ".join)
TALKS = st.lists(st.tuples(SAID, SAID), min_size=1, max_size=4)


def talk(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


@given(turns=TALKS)
def test_the_mask_is_what_the_assistant_says_and_its_stops(turns: list[tuple[str, str]]) -> None:
    """Run by run under the mask: one answer and one stop token each, and nothing of what was asked."""
    ids, mask = CHAT.encode_conversation(talk(turns), loss_on="all")
    trained = [token for token, under in zip(ids, mask, strict=True) if under]
    assert trained == [token for _, answer in turns for token in CHAT.encode_completion(answer)]
    _, final = CHAT.encode_conversation(talk(turns))
    last = len(CHAT.encode_completion(turns[-1][1]))
    assert final == [False] * (len(ids) - last) + [True] * last


@given(turns=TALKS, other=TALKS)
def test_what_was_asked_never_changes_what_is_trained(turns: list[tuple[str, str]], other: list[Any]) -> None:
    same_answers = [(ask, answer) for (ask, _), (_, answer) in zip(other, turns, strict=False)]
    ids, mask = CHAT.encode_conversation(talk(turns[: len(same_answers)]), loss_on="all")
    others, under = CHAT.encode_conversation(talk(same_answers), loss_on="all")
    assert [token for token, here in zip(ids, mask, strict=True) if here] == [
        token for token, here in zip(others, under, strict=True) if here
    ]


def leaves(values: Any, path: str = "") -> dict[str, Any]:
    """Every number of params.yaml by its key."""
    if isinstance(values, dict):
        return {key: item for name, value in values.items() for key, item in leaves(value, f"{path}.{name}").items()}
    number = isinstance(values, int | float) and not isinstance(values, bool)
    return {path.lstrip("."): values} if number else {}


PLAIN = leaves(dict(profiles.resolve(REPO).values))
CHANGES = st.dictionaries(st.sampled_from(sorted(PLAIN)), st.sampled_from(["2", "0.5", "3", "1e-3"]), max_size=4)


@settings(max_examples=15, deadline=None)
@given(changes=CHANGES, order=st.randoms(use_true_random=False))
def test_an_overlay_changes_what_it_names_and_nothing_else(changes: dict[str, str], order: Any) -> None:
    wanted = [f"{key}={value}" for key, value in changes.items()]
    try:
        found = profiles.resolve(REPO, settings=wanted)
    except profiles.ConfigError as error:  # a value that a key does not take
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert any(key.rpartition(".")[2] in refused for key in changes)
        return
    assert leaves(dict(found.values)) == PLAIN | {key: float(value) for key, value in changes.items()}
    order.shuffle(wanted)
    again = profiles.resolve(REPO, settings=["seed=7", *wanted] if "seed" in changes else wanted)
    assert again.text == found.text, "neither order nor what is overridden later counts"


SPOILED = st.one_of(st.floats(-3, 3), st.sampled_from([math.nan, math.inf, -math.inf]))
PLACES = [
    *(("policies", "rl", metric) for metric in ("kl", "length", "stop_rate")),
    *(("differences", "sft", "rl", metric) for metric in ("gold_reward", "held_out_reward", "nll")),
]


def spoiled(scores: dict[str, Any], place: tuple[str, ...], value: float) -> dict[str, Any]:
    *path, last = place
    for part in path:
        scores = scores[part]
    scores[last] = {"mean": value, "ci_low": value, "ci_high": value}
    return scores


@given(place=st.sampled_from(PLACES), value=SPOILED)
def test_nothing_is_promoted_by_a_check_that_failed_or_by_no_number(place: tuple[str, ...], value: float) -> None:
    scores = healthy()
    spoiled(scores, place, value)
    valid = {"prompts": {"rows": 100, "clean": 99, "set_aside": 1}}
    verdict = decide(Gate(), scores, trusted(), valid)
    assert verdict["promote"] == all(check["passed"] for check in verdict["checks"])
    assert not (verdict["promote"] and math.isnan(value))
    assert verdict["reason"]


@given(limits=st.tuples(st.floats(0.1, 20), st.floats(0.1, 20)), kl=st.floats(0, 20))
def test_a_wider_limit_refuses_nothing_that_a_narrower_one_lets_pass(limits: tuple[float, float], kl: float) -> None:
    scores = healthy()
    spoiled(scores, ("policies", "rl", "kl"), kl)
    valid = {"prompts": {"rows": 100, "clean": 99, "set_aside": 1}}
    narrow, wide = (decide(Gate(max_kl=limit), scores, trusted(), valid)["promote"] for limit in sorted(limits))
    assume(limits[0] != limits[1])
    assert wide or not narrow
