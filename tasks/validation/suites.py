"""The suites of data/expectations/, asserted by Great Expectations. Nothing else in the project imports it."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import Field

from rlhf.errors import PreflowError
from tasks.config import Section, read_yaml
from tasks.config.validate import Validate

_GX_SEVERITY = {"stop": "critical", "quarantine": "warning", "note": "info"}


class Rule(Section):
    """One rule of a suite: an expectation of Great Expectations, how much it matters, and why."""

    rule: str = Field(min_length=1, description="name in reports")
    says: str = Field(min_length=1, description="the rule in one sentence")
    severity: Literal["stop", "quarantine", "note"] = Field(
        description="stop ends the run, quarantine sets the row aside, note only says so"
    )
    expectation: str = Field(min_length=1, description="type, as Great Expectations names it")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its arguments; `params.x` is validate.x")
    reason: str = Field("{value}", description="what is said of a row that breaks it; {value} is what was found")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one rule: the value of a rule about the whole table, or the rows that break a rule about rows."""

    rule: Rule
    passed: bool
    kwargs: dict[str, Any]
    observed: Any = None
    broken: list[tuple[int, Any]] = field(default_factory=list)  # (row, value found)


def load_suite(path: Path, config: Validate) -> list[Rule]:
    """Rules of one suite, with the numbers of `params.<name>` filled in.

    Raises:
        PreflowError: it cannot be read, or a rule cannot be told of: its name is another's, or nothing fills a gap in
            its reason.
    """
    values = read_yaml(path).get("rules")
    if not isinstance(values, list) or not values:
        raise PreflowError(f"{path}: expected a list `rules`, found {values!r}")
    rules = [Rule.parse(value, f"{path.name}: rule {number}") for number, value in enumerate(values, start=1)]
    times = Counter(rule.rule for rule in rules)
    if twice := [name for name in times if times[name] > 1]:
        raise PreflowError(
            f"{path}: two rules are called {twice[0]}; give each a name of its own, as reports tell them by it"
        )
    rules = [rule.model_copy(update={"kwargs": _filled(rule.kwargs, config, path)}) for rule in rules]
    for rule in rules:
        given = dict.fromkeys(["value", *rule.kwargs])
        if unknown := sorted(_gaps(rule.reason, f"{path}: rule {rule.rule}") - given.keys()):
            raise PreflowError(
                f"{path}: rule {rule.rule}: nothing fills {{{unknown[0]}}} in its reason, which may have "
                f"{', '.join(f'{{{name}}}' for name in given)}"
            )
    return rules


def _gaps(reason: str, where: str) -> set[str]:
    """Names in braces."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(reason) if name is not None]
    except ValueError as error:
        raise PreflowError(f"{where}: its reason cannot be read: {error}; write a brace as {{{{ or }}}}") from None
    return {re.split(r"[.\[]", name)[0] for name in fields}


def assert_rules(rules: Sequence[Rule], table: Any) -> list[Outcome]:
    """Hold a pandas table against the rules. A table without rows is held only against its row count: Great
    Expectations passes everything else on nothing."""
    if not len(table):
        rules = [rule for rule in rules if rule.expectation.startswith("expect_table_row_count")]
    said = [rule for rule in rules if not _about_nothing(rule, table)]
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    batch = _frames().get_batch({"dataframe": table})
    wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
    results: dict[int, Any] = {}
    for layer in _layers(said):
        suite = gx.ExpectationSuite(name="rules")
        for index in layer:
            rule, meta = said[index], {"index": index}
            severity = _GX_SEVERITY[rule.severity]
            suite.add_expectation_configuration(
                ExpectationConfiguration(type=rule.expectation, kwargs=rule.kwargs, severity=severity, meta=meta)
            )
        for result in batch.validate(suite, result_format=wanted).results:
            results[int(result.expectation_config.meta["index"])] = result
    outcomes = {rule.rule: _outcome(rule, results[index]) for index, rule in enumerate(said)}
    return [outcomes.get(rule.rule) or Outcome(rule, True, rule.kwargs) for rule in rules]


def _about_nothing(rule: Rule, table: Any) -> bool:
    """A mean, a quantile or a maximum of a column that no row has a value in."""
    column = rule.kwargs.get("column")
    about_rows = rule.expectation.startswith("expect_column_values_to_")
    return len(table) > 0 and not about_rows and column in table and not table[column].notna().any()


@cache
def _frames() -> Any:
    """How Great Expectations takes pandas tables; made once a process."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")


def _layers(rules: Sequence[Rule]) -> list[list[int]]:
    """Positions of rules in as few suites as hold them: of two expectations of one type on one column, a suite of Great
    Expectations silently keeps only the last."""
    layers: list[list[int]] = []
    seen: Counter[tuple[str, Any]] = Counter()
    for index, rule in enumerate(rules):
        kind = (rule.expectation, rule.kwargs.get("column"))
        if seen[kind] == len(layers):
            layers.append([])
        layers[seen[kind]].append(index)
        seen[kind] += 1
    return layers


def _outcome(rule: Rule, result: Any) -> Outcome:
    errors = [info for info in _exceptions(result.exception_info) if info.get("raised_exception")]
    if errors:
        raise PreflowError(f"rule {rule.rule} ({rule.expectation}): {errors[0].get('exception_message')}")
    column = rule.kwargs.get("column")
    broken = [
        (int(found["row"]), _plain(found.get(column))) for found in result.result.get("unexpected_index_list") or []
    ]
    observed = _plain(result.result.get("observed_value"))
    return Outcome(rule, bool(result.success), rule.kwargs, observed, sorted(broken, key=lambda item: item[0]))


def _exceptions(info: dict[str, Any]) -> list[dict[str, Any]]:
    return [info] if "raised_exception" in info else list(info.values())


def _filled(value: Any, config: Validate, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, config, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, config, path) for item in value]
    if isinstance(value, str) and value.lstrip("-").startswith("params."):
        name = value.lstrip("-").removeprefix("params.")
        if name not in type(config).model_fields:
            raise PreflowError(f"{path}: `{value}` is unknown; validate has {', '.join(type(config).model_fields)}")
        return -getattr(config, name) if value.startswith("-") else getattr(config, name)
    return value


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, whole ones as int, so that reports are the same bytes everywhere."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        if not isfinite(value):
            return None  # the mean of nothing
        return int(value) if value.is_integer() else round(value, 6)
    return value
