"""Models that bring Python of their own (`auto_map`): run only where the user said so, and only that very code.

`base.trust_remote_code` is said once, to stage `base`. The code then travels with the policy, and trusted_code.json
holds what was trusted, by SHA-256: later stages run these files and no others.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from rlhf.records import write_json

TRUSTED = "trusted_code.json"
_BESIDE = re.compile(r"[\w-]+\.\w+")


def refusal(folder: Path, config: dict[str, Any], trusted: bool | None) -> str | None:
    """Why the code of a folder is not run, or None where it has none or may be.

    `trusted` is what the user said. None is for folders that a stage wrote: their trusted_code.json says what may run.
    """
    places = [place for value in config.get("auto_map", {}).values() for place in _texts(value)]
    if not places:
        return None
    if elsewhere := [place for place in places if "--" in place or not _BESIDE.fullmatch(place)]:
        return (
            f"{folder.name}/config.json has auto_map with code of another repository or folder ({elsewhere[0]}), which "
            "is never run: copy its files into the folder and name them as module.Class"
        )
    if trusted:
        return None
    recorded = trusted is None and (folder / TRUSTED).is_file()
    if not recorded:
        return (
            f"{folder.name}/config.json has auto_map: the model brings code, which is not run unless you trust its "
            "authors and say so (base.trust_remote_code=true)"
        )
    expected, found = json.loads((folder / TRUSTED).read_text("utf-8")), _digests(read_code(folder))
    changed = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return f"{folder.name} brings other code than was trusted: {', '.join(changed)} changed" if changed else None


def read_code(folder: Path) -> dict[str, str]:
    """The Python files of a folder, by name."""
    return {path.name: path.read_text("utf-8") for path in sorted(folder.glob("*.py"))}


def save_code(model: Any, folder: Path) -> None:
    """Write the code that a model was loaded with beside its weights; nothing where it has none."""
    code: dict[str, str] = getattr(model, "remote_code", {})
    for name, text in code.items():
        (folder / name).write_text(text, "utf-8")
    if code:
        write_json(folder / TRUSTED, _digests(code))


def _digests(code: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in code.items()}


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [text for text in value if text is not None]
