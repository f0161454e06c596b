"""Is an answer right? Checks that need no model: a text and what is known about the question in, a verdict out.

A verifier is given `meta` of the prompt and makes a check of texts from it. What it needs there:

world        `kind` and `args` of the embedded world
exact        `answer`, a text or a list of texts that are all right
regex        `answer`, a regular expression or a list of them
number       `answer`, a number or a text that holds it (GSM8K's worked solutions too), or a list
constraints  `constraints`, what the text must keep to (`rlhf.verifiers.constraints`)
code         `tests`, Python statements that must run through (`rlhf.verifiers.code`)

Which one is meant, `meta["verifier"]` may say; questions of the embedded world need not.

Any text gets a verdict in bounded time. It is None where nobody can say: a regular expression takes too long over it,
or the machine was too busy to run its program.
"""

import math
from collections.abc import Mapping
from typing import Any

from rlhf.errors import PreflowError
from rlhf.verifiers.code import code
from rlhf.verifiers.constraints import constraints
from rlhf.verifiers.numbers import number
from rlhf.verifiers.specs import Check, Verifier, shown
from rlhf.verifiers.texts import exact, regex, world

VERIFIERS: dict[str, Verifier] = {
    "world": world,
    "exact": exact,
    "number": number,
    "regex": regex,
    "constraints": constraints,
    "code": code,
}


def check_of(meta: Mapping[str, Any], name: str | None = None) -> Check:
    """The check of one prompt's answers, by the verifier `name`, or by the one that the prompt names.

    Raises PreflowError where the prompt says too little, or nonsense: that makes no answer wrong.
    """
    chosen = name or meta.get("verifier") or ("world" if "kind" in meta else None)
    if chosen is None:
        raise PreflowError(
            f"a prompt has no verifier (its meta has {sorted(meta) or 'nothing'}): give it `verifier` and `answer`, "
            f"or name one of {', '.join(VERIFIERS)} for all"
        )
    if not isinstance(chosen, str) or chosen not in VERIFIERS:
        raise PreflowError(f"verifier {shown(chosen)} is unknown: there are {', '.join(VERIFIERS)}")
    return VERIFIERS[chosen](meta)


def verify(meta: Mapping[str, Any], text: str, name: str | None = None) -> float:
    """1 where `text` is a right answer, 0 where not, NaN where nobody can say. Raises PreflowError as `check_of`."""
    verdict = check_of(meta, name)(text)
    return math.nan if verdict is None else float(verdict)
