"""A prepared view of an experiment, as MLflow's own "share view" keeps one: the columns and charts to look at first.

It is a tag of the experiment, and a link opens it. MLflow reads it leniently: what a later version does not know of it,
it leaves out.
"""

import json
from collections.abc import Sequence
from typing import Any

KEY = "overview"
TAG = f"mlflow.sharedViewState.{KEY}"
RUNS = "tags.`preflow.kind` = 'pipeline'"  # without their stages, whose metrics would only add empty charts


def link(experiment: str) -> str:
    """Where the view of an experiment is, from any page of MLflow."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"


def overview(judge: str, measure: str, policies: Sequence[str]) -> str:
    """The tag's value: gain, promotion and time as columns; gain, what it cost in KL, time and reward as charts.

    Args:
        judge: who says what is better, as in `<judge>_gain`.
        measure: what the judge goes by, "gold_reward".
        policies: what the evaluation compares; one of them is drawn: `rl`, or else the last.
    """
    gain, last = f"{judge}_gain", "rl" if "rl" in policies else policies[-1]
    columns = [
        *(_metric(name) for name in (gain, f"{gain}_low", "promoted", "seconds", "stages_ran")),
        "tags.`gate.candidate`",
        *(_metric(f"{measure}/{last}") for measure in (measure, "kl")),
    ]
    charts = [
        _chart("BAR", "gain", metricKey=gain),
        _chart("SCATTER", "cost", xaxis=_axis(f"kl/{last}"), yaxis=_axis(f"{measure}/{last}")),
        _chart("BAR", "seconds", metricKey="seconds"),
        _chart("BAR", "reward", metricKey=f"{measure}/{last}"),
    ]
    section = {"uuid": "first", "name": "At a glance", "display": True, "isReordered": False, "deleted": False}
    state = {
        "searchFilter": RUNS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "compareRunCharts": charts,
        "compareRunSections": [section | {"isGenerated": False}],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {},
    }
    return json.dumps(state, separators=(",", ":"))


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _axis(name: str) -> dict[str, str]:
    return {"key": name, "type": "METRIC"}


def _chart(kind: str, uuid: str, **about: Any) -> dict[str, Any]:
    shared = {"uuid": uuid, "type": kind, "runsCountToCompare": 10, "metricSectionId": "first"}
    return shared | {"deleted": False, "isGenerated": False} | about
