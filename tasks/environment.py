"""The package versions that results depend on.

`environment.json` names the versions of the packages that change numbers. It is a dependency of every stage, so that
other versions are other keys, and every stage refuses to run where the installed ones differ. It is generated from
constraints.txt: `python -m tasks.environment --write`.
"""

import argparse
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlhf.errors import PreflowError

# Training and sampling, what reads models, and what reads or judges data. Trackers and orchestrators change no number.
PACKAGES = (
    "bitsandbytes",
    "great-expectations",
    "numpy",
    "pandas",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


class EnvironmentMismatch(PreflowError):
    """Other package versions are installed than the results are promised for."""


def check(root: Path) -> None:
    """Compare the installed versions with `root`/environment.json.

    Raises:
        EnvironmentMismatch: they differ, or the file is absent; the message says how to mend it.
    """
    try:
        wanted: dict[str, str] = json.loads((root / "environment.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EnvironmentMismatch(
            f"{root / 'environment.json'} is missing; write it with `python -m tasks.environment --write`"
        ) from None
    found = {name: _installed(name) for name in wanted}
    wrong = [f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if wrong:
        raise EnvironmentMismatch(
            f"installed: {', '.join(wrong)}; results would not be comparable. `rm -rf .venv && make setup` installs "
            "what constraints.txt names; or adopt the new versions: change constraints.txt, then "
            "`python -m tasks.environment --write`"
        )


def render(root: Path) -> str:
    """The text of environment.json as constraints.txt asks for it.

    Raises:
        EnvironmentMismatch: constraints.txt pins none or no exact version of a package.
    """
    pins = {}
    for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, found, pinned = line.partition("==")
        if found and not line.startswith("#"):
            pins[_normal(name)] = pinned.strip()
    missing = [name for name in PACKAGES if name not in pins]
    if missing:
        raise EnvironmentMismatch(f"constraints.txt has no line `{missing[0]}==VERSION`")
    return json.dumps({name: pins[name] for name in PACKAGES}, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """`--write` renews environment.json, `--check` compares it with what is installed."""
    parser = argparse.ArgumentParser(prog="python -m tasks.environment", description=main.__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    root = Path.cwd()
    try:
        if parser.parse_args().write:
            (root / "environment.json").write_text(render(root), encoding="utf-8")
        else:
            check(root)
    except EnvironmentMismatch as error:
        sys.exit(f"environment: {error}")


def _installed(name: str) -> str:
    try:
        return version(name).partition("+")[0]  # 2.13.0+cpu is 2.13.0; the device is recorded apart
    except PackageNotFoundError:
        return "none"


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")


if __name__ == "__main__":
    main()
