"""What Prefect starts for a stage of a pool of type docker or kubernetes: base job templates and their variables."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from flows.pools.orders import GRACE, SENDING, Type
from flows.processes import SAVING
from rlhf.errors import PreflowError
from tasks.config import ConfigError, read_yaml


def template(kind: Type, file: Path | None, assigned: Sequence[str]) -> dict[str, Any]:
    """The base job template of a pool, from a file or our own, with each `NAME=VALUE` as the default of a job variable.

    `saving` and `grace`, where it has them, are this process's own unless they are assigned.

    Raises:
        ConfigError: it is none, or has no such variable, or not with such a value.
        PreflowError: Prefect's worker for this type is not installed.
    """
    if find_spec(f"prefect_{kind}") is None:
        raise PreflowError(
            f"pools of type {kind} are served by prefect-{kind}, which is not installed here: "
            f"pip install -e '.[{kind}]' -c constraints.txt"
        )
    path = file or Path(__file__).with_name(f"{kind}.yaml")
    made = read_yaml(path)
    if not all(isinstance(made.get(part), Mapping) for part in ("variables", "job_configuration")):
        raise ConfigError(f"{path}: expected a base job template of Prefect: `variables` and `job_configuration`")
    known = _variables(made, str(path))
    ours = {"saving": ceil(SAVING), "grace": ceil(max(GRACE, known.get("grace", {}).get("default", 0)))}
    values = {name: seconds for name, seconds in ours.items() if name in known}
    values |= dict(_assigned(one, known) for one in assigned)
    refuse_unfit(values, made, str(path))
    for name, value in values.items():
        known[name]["default"] = value
    return made


def refuse_unfit(values: Mapping[str, Any], template: Mapping[str, Any], whose: str) -> None:
    """Raises ConfigError where a base job template has no such job variables, or not with such values."""
    from prefect.utilities.schema_tools import validate

    known = _variables(template, whose)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{whose} has no job variable {name}; it has {', '.join(known) or 'none'}")
        if errors := validate({name: value}, {"properties": {name: known[name]}}):
            told = known[name].get("description")
            raise ConfigError(f"{whose}: job variable {name}: {errors[0].message}{f'; it is: {told}' if told else ''}")
    seconds = {name: values.get(name, one.get("default")) for name, one in known.items() if name in ("saving", "grace")}
    if len(seconds) == 2 and None not in seconds.values() and seconds["grace"] < (least := SENDING * seconds["saving"]):
        raise ConfigError(
            f"{whose}: grace is {seconds['grace']} s, and to save and to send takes {least}: {SENDING} times saving"
        )


def namespace_of(template: Mapping[str, Any]) -> str:
    """Of Kubernetes, where a pool's Jobs are made; "" where the template leaves that to the worker's own."""
    from prefect.utilities.templating import apply_values

    variables = _variables(template, "the template")
    defaults = {name: one["default"] for name, one in variables.items() if "default" in one}
    found = apply_values(template["job_configuration"].get("namespace"), defaults)
    return found if isinstance(found, str) else ""


def _variables(template: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The schema of each job variable."""
    found = (template.get("variables") or {}).get("properties", {})
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ConfigError(f"{whose}: expected `variables: {{properties: {{NAME: {{type: …, default: …}}}}}}`")
    return found


def _assigned(text: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    """`gpus=1` as a name and a value of YAML, or of plain text where the variable is one."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"--job-variable {text}: expected NAME=VALUE, as in image=registry.example.org/worker:1")
    if known.get(name, {}).get("type") == "string":
        return name, value
    try:
        return name, YAML(typ="safe").load(value)
    except YAMLError:
        raise ConfigError(f"--job-variable {name}: {value!r} is no YAML") from None
