"""What happened in a run, in words: the headline, and a line a stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from flows.page.facts import Facts, Numbers, module_of
from flows.page.tables import interval, signed
from rlhf.comparison import JUDGED_BY
from rlhf.errors import DataRefused, Preempted
from tasks.outcome import State


@dataclass(frozen=True)
class Headline:
    """The first thing to read."""

    says: str
    more: str
    mood: str
    """A class of the page's style: good, plain or bad."""


def headline(facts: Facts) -> Headline:
    """What happened, as the flow ended it; of a run that nobody told of, what its files say."""
    report = facts.about.report
    failed = [one for one in facts.results.values() if one["state"] == "failed"]
    if report.exit_code == Preempted.exit_code:
        stopped = [one["name"] for one in facts.results.values() if one["state"] == "stopped"]
        where = f" in {', '.join(stopped)}" if stopped else " before it was done"
        return Headline(f"Stopped{where}", "The same command goes on from there.", "plain")
    if failed and failed[0].get("exit_code") == DataRefused.exit_code:
        return Headline("The data was refused; nothing was trained on it", failed[0].get("reason", ""), "bad")
    if failed:
        return Headline(f"{failed[0]['name']} failed", failed[0].get("reason", ""), "bad")
    gate, outcome = facts.gate, report.promotion or {}
    if gate is None:
        done = sum(one["state"] in ("ran", "cached", "kept") for one in facts.results.values())
        if done < len(facts.stages):
            return Headline(f"{done} of {len(facts.stages)} stages are done", "", "plain")
        return Headline(f"All {done} stages are done", "No stage of this graph is a gate.", "plain")
    verdict = str(gate.get("reason", ""))
    if outcome.get("promoted"):
        version = f"{outcome['name']} v{outcome['version']}"
        fresh = str(outcome.get("reason", "")).startswith("promoted")
        says = f"Promoted {gate['candidate']} as {version}" if fresh else f"{version} stays champion: the same bytes"
        return Headline(f"{says}{_gain(facts)}", verdict, "good")
    if not gate["promote"]:
        return Headline(f"{gate['candidate']} did not pass the gate; nothing was promoted", verdict, "bad")
    more = str(outcome.get("reason", "")) or verdict
    return Headline(f"{gate['candidate']} passed the gate{_gain(facts)}", more, "good" if not outcome else "plain")


def gate_says(facts: Facts) -> str:
    """What the gate says, and what came of it where that does not say the same again."""
    verdict = str(facts.gate.get("reason", "")) if facts.gate else ""
    came = str((facts.about.report.promotion or {}).get("reason", ""))
    if verdict and verdict in came:
        return came.removeprefix("not promoted: ")
    return ". ".join(filter(None, [verdict, came[:1].upper() + came[1:]]))


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Few numbers to begin with: (name, value, beside it)."""
    found = []
    gate, scores = facts.gate, facts.scores
    if gate and scores:
        metric = JUDGED_BY[scores["judge"]]
        point = scores["policies"][gate["candidate"]][metric]
        found.append((f"{metric.replace('_', ' ')} of {gate['candidate']}", f"{point['mean']:.2f}", interval(point)))
        passed = sum(check["passed"] for check in gate["checks"])
        found.append(("checks of the gate", f"{passed} of {len(gate['checks'])}", "passed"))
    for stage, metrics in facts.metrics_of("reward_model").items():
        accuracy, ceiling = metrics["policy_rm"]["accuracy"], metrics["policy_rm"].get("ceiling")
        beside = f"ceiling {ceiling:.3f}" if ceiling else interval(accuracy)
        found.append((f"accuracy of {stage}", f"{accuracy['mean']:.3f}", beside))
    states = [one["state"] for one in facts.results.values()]
    counts = [f"{states.count(state)} {state}" for state in get_args(State) if state in states]
    if facts.about.report.stages:
        found.append(("time", duration(facts.about.report.seconds), ", ".join(counts)))
    return found


def stages(facts: Facts) -> list[dict[str, Any]]:
    """A line a stage: state, seconds and their share of the longest, what to know of it."""
    longest = max((one.get("seconds") or 0.0 for one in facts.results.values()), default=0.0)
    return [
        {
            "name": name,
            "state": one["state"],
            "time": duration(one["seconds"]) if one.get("seconds") else "",
            "share": round(100 * (one.get("seconds") or 0.0) / longest, 1) if longest else 0,
            "desc": facts.graph.stages[name].desc,
            "says": (one.get("reason") or "").partition("\n")[0] or key_figure(facts, name),
        }
        for name, one in facts.results.items()
    ]


def in_graph(facts: Facts) -> dict[str, tuple[str, str]]:
    """State of each stage, and how that reads in its box."""
    words = {"kept": "kept", "unknown": "nothing kept"}
    return {
        name: (one["state"], " · ".join(filter(None, [words.get(one["state"], one["state"]), _seconds(one)])))
        for name, one in facts.results.items()
    }


def key_figure(facts: Facts, stage: str) -> str:
    """The number to know of a stage; "" where it has none."""
    module, metrics = module_of(facts.graph.stages[stage]), facts.metrics.get(stage)
    if module == "gate" and facts.gate:
        return f"{'promote' if facts.gate['promote'] else 'refuse'} {facts.gate['candidate']}"
    if module == "evaluate" and facts.scores:
        return f"{len(facts.scores['policies'])} policies on {facts.scores['evaluation_set']['prompts']} prompts"
    told = _FIGURES.get(module)
    try:
        return told(metrics) if told and metrics else ""
    except (KeyError, TypeError, ValueError):  # of another version of the stage: nothing to say is no error
        return ""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _seconds(one: Numbers) -> str:
    return duration(one["seconds"]) if one.get("seconds") and one["state"] != "cached" else ""


def _gain(facts: Facts) -> str:
    gate, scores = facts.gate, facts.scores
    if not (gate and scores):
        return ""
    gain = scores["differences"].get(gate["against"], {}).get(gate["candidate"], {}).get(JUDGED_BY[scores["judge"]])
    return f": {signed(gain['mean'])} {scores['judge']} over {gate['against']}" if gain else ""


def _rows(metrics: Numbers) -> str:
    counts = [one for one in metrics.values() if isinstance(one, Mapping)]
    return f"{sum(one['clean'] for one in counts):,} rows clean, {sum(one['set_aside'] for one in counts):,} set aside"


_FIGURES: Mapping[str, Callable[[Numbers], str]] = {
    "validate": _rows,
    "base": lambda found: f"NLL on val {found['val_nll']:.2f}",
    "sft": lambda found: f"NLL on val {found['val_nll']:.2f}",
    "annotate": lambda found: f"{found['train_pairs']:,.0f} pairs to train on",
    "reward_model": lambda found: (
        f"accuracy {found['policy_rm']['accuracy']['mean']:.3f}, {'trusted' if found['trusted'] else 'not trusted'}"
    ),
    "sample": lambda found: f"{found['prompts']:,.0f} prompts × {found['completions_per_prompt']:.0f} completions",
    "rejection_sampling": lambda found: (
        f"reward of the selected {found['selected_reward']:.2f}, of all {found['all_reward']:.2f}"
    ),
    "dpo": lambda found: f"{found['pairs']:,} pairs in {found['steps']:,} steps",
    "rl": lambda found: f"{found['algorithm']}, kept update {found['kept']}",
    "folds": lambda found: f"accuracy {found['accuracy']['mean']:.3f} over {len(found['folds'])} folds",
}
