"""The page of a run as HTML, and its short form as Markdown, from templates; every text in it is escaped."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from flows import costs
from flows.page import charts, graph, story, tables
from flows.page.facts import Facts, Numbers
from rlhf.comparison import JUDGED_BY
from tasks.outcome import in_story_order
from tasks.redact import redacted

TEMPLATES = Path(__file__).parent / "templates"
_SIGNS = "\\`*_[]|#!"  # of Markdown


def as_html(facts: Facts) -> str:
    """One file that needs nothing else."""
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return redacted(_template("report.html").render(_told(facts), style=style, sections=sections(facts)))


def as_markdown(facts: Facts) -> str:
    """What Prefect shows: the headline, stages, gate, tables."""
    return redacted(_template("report.md").render(_told(facts)))


def sections(facts: Facts) -> list[tuple[str, str]]:
    """(id, title) of the parts that this run has something for."""
    parts = [
        ("story", "Story", facts.stages),
        ("gate", "Gate", facts.gate),
        ("evaluation", "Evaluation", facts.scores),
        ("trust", "Reward models", _reward_models(facts)),
        ("training", "Training", charts.rl_curves(facts)),
        ("samples", "Answers", facts.samples),
        ("data", "Data", facts.verdicts),
        ("lineage", "Lineage", tables.lineage(facts)),
        ("cost", "Cost", facts.about.report.stages),
        ("again", "Reproduce", True),
    ]
    return [(name, title) for name, title, present in parts if present]


def _told(facts: Facts) -> dict[str, Any]:
    scores = facts.scores
    metric = JUDGED_BY[scores["judge"]] if scores else ""
    return {
        "facts": facts,
        "about": facts.about,
        "report": facts.about.report,
        "when": _when(facts.about.report.run),
        "headline": story.headline(facts),
        "tiles": story.tiles(facts),
        "stages": story.stages(facts),
        "graph": graph.picture(facts.graph, story.in_graph(facts)) if facts.stages else "",
        "gate_says": story.gate_says(facts),
        "checks": tables.checks(facts),
        "metric": metric.replace("_", " "),
        "standing": charts.standing(facts, metric) if scores else [],
        "policies": tables.policies(facts),
        "differences": tables.differences(facts),
        "over_optimisation": charts.over_optimisation(facts),
        "trajectory": charts.trajectory(facts),
        "best_of_n": charts.best_of_n(facts),
        "reward_models": _reward_models(facts),
        "rl_curves": charts.rl_curves(facts),
        "samples": _samples(facts),
        "data": _data(facts),
        "lineage": tables.lineage(facts),
        "cost_rows": list(costs.rows(facts.about.report)) if facts.about.report.costs else [],
        "cost_columns": costs.COLUMNS,
        "total": story.duration(facts.about.report.seconds),
    }


def _reward_models(facts: Facts) -> list[dict[str, Any]]:
    """The optimised one and its witness, of every stage that trained some, with why it is trusted or not."""
    return [
        {
            "name": f"{stage}: {name}",
            "trusted": metrics["trusted"],
            "reasons": metrics["reasons"],
            "table": tables.trust(metrics[name]),
            "figures": charts.trust(metrics[name]),
        }
        for stage, metrics in facts.metrics_of("reward_model").items()
        for name in ("policy_rm", "held_out_rm")
        if name in metrics
    ]


def _samples(facts: Facts) -> list[dict[str, Any]]:
    """A prompt with the first answer of each policy, and what the first of the judges says of it."""
    paint = charts.colours({name for one in facts.samples for name in one["answers"]})
    return [
        {
            "before": one["messages"][:-1],
            "prompt": one["messages"][-1]["content"],
            "answers": [
                _answer(name, one["answers"][name][0]) | {"colour": paint[name]}
                for name in in_story_order(one["answers"])
                if one["answers"][name]
            ],
        }
        for one in facts.samples
    ]


def _answer(name: str, answer: Numbers) -> dict[str, Any]:
    metric = next((key for key in JUDGED_BY.values() if key in answer), None)
    score = tables.value(round(answer[metric], 2)) if metric else ""
    return {"name": name, "text": answer["text"], "score": score, "cut": answer.get("stop_reason") == "length"}


def _data(facts: Facts) -> list[dict[str, Any]]:
    """What each data gate of the graph has to say."""
    return [
        {
            "stage": stage,
            "passed": verdict["passed"],
            "stopped": [one for kind in verdict["kinds"].values() for one in kind["stopped"]],
            "table": tables.data(facts, stage),
            "rules": tables.broken_rules(facts, stage),
            "lengths": tables.lengths(facts, stage),
            "drift": _drift(verdict),
            "page": _page_of(facts, stage),
        }
        for stage, verdict in facts.verdicts.items()
    ]


def _drift(verdict: Numbers) -> list[tuple[str, str]]:
    """How far each kind has moved from the profile that it is held against, where there is one."""
    rules = [(kind, rule) for kind, one in verdict["kinds"].items() for rule in one["rules"]]
    found = [(kind, rule["observed"]) for kind, rule in rules if rule["rule"] == "drift"]
    return [(kind, tables.value(far)) for kind, far in found if far is not None]


def _page_of(facts: Facts, stage: str) -> str:
    """The gate's own page, as a link from this one; "" where it is not there."""
    page = facts.validations.get(stage)
    if page is None or not (page / "report.html").is_file():
        return ""
    return (page / "report.html").relative_to(facts.about.reports).as_posix()


def _when(run: str) -> str:
    """ "2026-11-28 19:30", from the name of a run."""
    day, _, rest = run.partition("-")
    if len(day) != 8 or not (day + rest[:6]).isdigit():
        return ""
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {rest[:2]}:{rest[2:4]}"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"capital": _capital, "plain": _plain, "cell": _cell}
    return made


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: str) -> str:
    """Text that Markdown, and whoever makes HTML of it, takes as text."""
    return "".join(f"\\{sign}" if sign in _SIGNS else sign for sign in text.replace("<", "‹").replace(">", "›"))


def _cell(text: str) -> str:
    return _plain(text).replace("\n", " ")


def _template(name: str) -> Any:
    return _environment().get_template(name)
