"""A program that renders a chat template as Jinja, apart from its caller and with limits: a template is foreign code.

Reads one JSON object from stdin, {"template", "variables", "probes": [{"messages", "add_generation_prompt"}, …]}, and
writes one list to stdout, [{"text"} or {"error"}, …]. `rlhf.chat.derive` starts it.
"""

import json
import re
import resource
import sys
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 3
MEMORY = 2**30
MOST_CHARACTERS = 100_000
"""Of one rendered conversation, whose contents are a few words."""


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it: white space around blocks goes, loops may break, errors may be raised.

    There is no clock: a template that dates its prompts falls back to the date it was written with.
    """
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _refuse
    return made


def rendered(template: str, variables: dict[str, Any], probes: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each probe's text, or why there is none."""
    marks = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # where a loss mask goes: ours comes from segments
    try:
        compiled = environment().from_string(marks.sub("", template))
    except TemplateError as error:
        return [{"error": f"line {getattr(error, 'lineno', 0)}: {error.message}"}] * len(probes)
    return [_one(compiled, {**variables, **probe}) for probe in probes]


def _one(compiled: Any, variables: dict[str, Any]) -> dict[str, str]:
    try:
        parts: list[str] = []
        length = 0
        for part in compiled.generate(**variables):
            parts.append(part)
            length += len(part)
            if length > MOST_CHARACTERS:
                return {"error": f"it writes more than {MOST_CHARACTERS} characters for a few words"}
        return {"text": "".join(parts)}
    except Exception as error:  # whatever foreign code raises is its error, not ours
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def main() -> None:
    """Take the limits on and render what stdin asks for."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    json.dump(rendered(**json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
