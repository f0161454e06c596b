"""What a mistake in the configuration is told beyond what the typed models say."""

from collections.abc import Mapping
from typing import Any, get_args

KINDS = {"rl": "on-policy", "dpo": "direct"}
"""Modules that train by one of several algorithms, and what theirs are called."""


def algorithms_of(module: str) -> tuple[str, ...]:
    """The choices of `algorithm` in the section of a stage module."""
    from tasks.config.params import Params

    section: Any = Params.model_fields[module].annotation
    return get_args(section.model_fields["algorithm"].annotation)


def module_of(algorithm: str) -> str:
    """The stage module that has an algorithm, "" where none has."""
    return next((module for module in KINDS if algorithm in algorithms_of(module)), "")


def hinted(line: str, values: Mapping[str, Any], further: Mapping[str, str]) -> str:
    """One line of a ConfigError, `key.path: what is wrong`, with what to do about it where that is known.

    `values` is what was refused, `further` is {section: stage module}.
    """
    key = line.partition(":")[0]
    section, _, name = key.partition(".")
    module = further.get(section, section)
    value = _value(values, key)
    if ": unknown key" in line and module in KINDS and (moved := _moved(name, module, values.get(section) or {})):
        return f"{key}: {moved}"
    if key == "evaluate.batch_size":
        return f"{key}: is generation.batch_size now, of every stage that samples"
    if value is None and line.endswith("(got None)"):
        return f"{key}: a value is missing; {line.partition(': ')[2].removesuffix(' (got None)')}"
    if isinstance(value, str) and "Input should be" in line and "," in value:
        return f"{line}; several values at once: `preflow compare`"
    other = module_of(value) if isinstance(value, str) else ""
    if name == "algorithm" and module in KINDS and other not in ("", module):
        return f"{key}: {value} is not {KINDS[module]} but {KINDS[other]}: set {other}.algorithm={value}"
    return line


def _moved(name: str, module: str, section: Mapping[str, Any]) -> str:
    """Where a knob is that was in the section of a method once."""
    from tasks.config.params import Algorithms, Params

    blocks = {block: field.annotation for block, field in Algorithms.model_fields.items()}
    having = [block for block in algorithms_of(module) if name in getattr(blocks[block], "model_fields", {})]
    kind: Any = Params.model_fields[module].annotation
    chosen = section.get("algorithm", kind.model_fields["algorithm"].default)
    if chosen in having:
        return f"is in algorithms.<name> now, here algorithms.{chosen}.{name}"
    there = ", ".join(f"algorithms.{block}.{name}" for block in having)
    return f"is in algorithms.<name> now: {there}; {chosen} has none" if having else ""


def _value(values: Mapping[str, Any], key: str) -> Any:
    """What is at `key.path`; "" where that leads nowhere."""
    found: Any = values
    for name in key.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return ""
        found = found[name]
    return found
