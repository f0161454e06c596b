"""params.yaml and docs/configuration.md, rendered from the configuration models.

The models hold names, types, limits, defaults and meaning; both files are views of them.
`python -m tasks.reference --write` renews both, `--check` says whether they are stale.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

WIDTH = 120
_PARAMS_HEAD = """\
# Every key with its default, generated from the models in tasks/config (`python -m tasks.reference --write`).
# Change values here, lay a profile over them (`preflow run --profile NAME`), or set one (`--set rl.kl_coef=0.05`).
"""
_PAGE_HEAD = """\
# Configuration

Every key of `params.yaml`, generated from the models in `tasks/config` by `python -m tasks.reference --write`.

Defaults in code, `params.yaml` over them, a profile over that, `--set section.key=value` last. Unknown keys are errors.
The resolved configuration is saved with every run.

A profile's own graph may use a stage module more than once: `python -m tasks.rl --params rl_verifier` reads section
`rl_verifier`, which has the keys and defaults of `rl`.
"""
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def render_params(model: type[BaseModel]) -> str:
    """params.yaml: each key under its description, in declaration order, sections set apart by an empty line."""
    schema, values = _described(model)
    return _PARAMS_HEAD + "".join(_block(schema, schema, values, depth=0))


def render_page(model: type[BaseModel]) -> str:
    """docs/configuration.md: a table a section with key, type, default, allowed values and meaning."""
    schema, values = _described(model)
    return _PAGE_HEAD + "".join(_tables(schema, schema, values))


def rendered(model: type[BaseModel]) -> dict[str, str]:
    """Both files, by their path in the repository."""
    return {"params.yaml": render_params(model), "docs/configuration.md": render_page(model)}


def main() -> None:
    """Renew or check params.yaml and docs/configuration.md."""
    from tasks.config.params import Params

    parser = argparse.ArgumentParser(prog="python -m tasks.reference", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    write = parser.parse_args().write
    for name, text in rendered(Params).items():
        path = Path.cwd() / name
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{name} differs from the models in tasks/config; run `python -m tasks.reference --write`")


def _described(model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    return model.model_json_schema(), model().model_dump(mode="json", by_alias=True)


def _block(root: Mapping[str, Any], node: Mapping[str, Any], values: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, field in node["properties"].items():
        inner = _section(root, field)
        if depth == 0 or inner:
            yield "\n"
        for line in textwrap.wrap(field.get("description", ""), WIDTH - len(indent) - 2):
            yield f"{indent}# {line}\n"
        if inner:
            yield f"{indent}{key}:\n"
            yield from _block(root, inner, values[key], depth + 1)
        else:
            yield f"{indent}{key}: {_scalar(values[key])}\n"


def _tables(
    root: Mapping[str, Any], node: Mapping[str, Any], values: Mapping[str, Any], path: str = "", about: str = ""
) -> Iterator[str]:
    inner = {key: found for key, field in node["properties"].items() if (found := _section(root, field))}
    rows = [key for key in node["properties"] if key not in inner]
    if rows:
        yield f"\n## {f'`{path}`' if path else 'Top level'}\n\n"
        if about:
            yield f"{about[0].upper()}{about[1:].rstrip('.')}.\n\n"
        yield "| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n"
        for key in rows:
            field = node["properties"][key]
            default = f"`{_scalar(values[key])}`" if key in values else "needed"
            cells = [f"`{key}`", _type(field), default, _allowed(field), field.get("description", "")]
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"
    for key, section in inner.items():
        about = node["properties"][key].get("description") or " ".join(section["description"].split())
        yield from _tables(root, section, values[key], f"{path}.{key}".lstrip("."), about)
    for key in rows:
        item = _section(root, node["properties"][key].get("items", {}))
        if item:
            fields = item["properties"].items()
            defaults = {name: field["default"] for name, field in fields if field.get("default", "") != ""}
            yield from _tables(root, item, defaults, f"{path}.{key}[]".lstrip("."), f"One entry of `{key}`")


def _section(root: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of the section that a field holds; None for a plain value."""
    found = root["$defs"][field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else field
    return found if found.get("properties") else None


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "$ref" in field:
        return "section"
    if "enum" in field or "const" in field:
        return "choice"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}s" if field.get("items") else "list"
    return str(field.get("type", "any")).replace("object", "mapping")


def _allowed(field: Mapping[str, Any]) -> str:
    inner = [*field.get("anyOf", []), *([field["items"]] if "items" in field else [])]
    options = [text for option in inner if (text := _allowed(option))]
    choices = field.get("enum", [field["const"]] if "const" in field else [])
    limits = [f"{sign} {field[name]:g}" for name, sign in _LIMITS.items() if name in field]
    pattern = [f"`{field['pattern']}`"] if "pattern" in field else []
    return ", ".join([*options, *(f"`{_scalar(choice)}`" for choice in choices), *limits, *pattern])


def _scalar(value: Any) -> str:
    """One value as YAML on one line: 5.0e-6 (a text without the dot, to YAML 1.1), quotes where YAML needs them."""
    if isinstance(value, float):
        text = re.sub(r"e([-+]?)0*(\d)", r"e\1\2", repr(value))
        return text.replace("e", ".0e", 1) if "." not in text else text
    if isinstance(value, str):
        return value if "#" not in value and _reads_as(value, value) else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _reads_as(text: str, value: str) -> bool:
    try:
        return bool(YAML(typ="safe").load(text) == value)
    except Exception:  # any text that YAML stumbles over needs quotes
        return False


if __name__ == "__main__":
    main()
