"""Typed, strict, frozen configuration: one section of params.yaml a file, defaults in code.

Every field has a default and a description; the description is the comment in params.yaml and the row in
docs/configuration.md. A stage module imports its own section only, so that a changed default of one stage is not a
changed dependency of another.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

from rlhf.errors import PreflowError


class ConfigError(PreflowError):
    """params.yaml, a profile or `--set` holds something that the configuration does not know or does not allow."""

    exit_code = 2


class Section(BaseModel):
    """One section of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """The section from plain values.

        Raises:
            ConfigError: names every bad key by its full path, `where` first, with the nearest known name.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [_explain(cls, where, item) for item in error.errors()]
            raise ConfigError("\n".join(lines)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 file as a dict (so that `5e-6` is a number); an empty file is an empty dict.

    Raises:
        ConfigError: the file is no YAML mapping; the message has the line.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except Exception as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values


def _explain(cls: type[BaseModel], where: str, item: Any) -> str:
    path = [where, *map(str, item["loc"])] if where else list(map(str, item["loc"]))
    name = ".".join(path)
    if item["type"] != "extra_forbidden":
        said = item["msg"].removeprefix("Value error, ")
        # With a whole section what is wrong is in the words; its values are long, and may be nobody's to read.
        whole = item["type"] in ("value_error", "missing") and isinstance(item["input"], Mapping)
        return f"{name}: {said}" if whole else f"{name}: {said} (got {item['input']!r})"
    model: Any = cls
    for key in item["loc"][:-1]:
        field = getattr(model, "model_fields", {}).get(key)
        model = field.annotation if field else None
    known = [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]
    near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
    return f"{name}: unknown key; {hint}"
