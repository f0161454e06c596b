"""Secrets: never shown. They are recognised by their form, and on their way into a log by where they come from, too.

Of the environment and of parameters only what has a name that is known to be harmless is shown by value.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

_FORMS = {  # kind: (a piece of text without which there is none, the form)
    "Hugging Face token": ("hf_", r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}"),
    "OpenAI-style key": ("sk-", r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}"),
    "AWS access key": ("IA", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}"),
    "GitHub token": ("gh", r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{20,}"),
    "fine-grained GitHub token": ("github_pat_", r"github_pat_[A-Za-z0-9_]{20,}"),
    "Google API key": ("AIza", r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}"),
    "Stripe key": ("_live_", r"(?<![A-Za-z0-9])[rs]k_live_[A-Za-z0-9]{16,}"),
    "Slack token": ("xox", r"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{10,}"),
    "private key": ("PRIVATE KEY", r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^-]*-----END [A-Z ]*-----|[\s\S]*)"),
    "password in a URL": ("://", r"://[^\s:/@]*:[^\s/]+@"),
}
_HARMLESS = re.compile(  # names of variables whose values may be read by anybody
    r"\w*PATH|\w*_DIR|\w*_HOME|HOME|PWD|OLDPWD|USER|USERNAME|LOGNAME|SHELL|TERM\w*|COLORTERM|LANG\w*|LC_\w+|TZ|HOSTNAME"
    r"|EDITOR|VISUAL|PAGER|DISPLAY|LS_COLORS|XDG_\w+|SSH_(CLIENT|CONNECTION|TTY|AUTH_SOCK)|VIRTUAL_ENV\w*|CONDA_\w+|_"
    r"|PYTHON\w*|PYTEST_\w+|(OMP|MKL|CUDA|NCCL|GLOO|ATEN|TORCH|TORCHELASTIC)_\w+|GLIBC_TUNABLES|NVIDIA_\w+"
    r"|GIT_(AUTHOR|COMMITTER)_\w+|GITHUB_(REPOSITORY|REF|SHA|WORKFLOW|JOB|ACTOR|EVENT_NAME|REF_NAME)|RUNNER_\w+|SLURM_\w+"
    r"|KUBERNETES_\w+|INVOCATION_ID|JOURNAL_STREAM|DVC_\w+|HF_HUB_\w+|DO_NOT_TRACK"
    r"|PREFECT_(LOGGING|SERVER|FLOWS|WORKER|PROFILE|CLIENT)\w*|PREFLOW_(RUN|REPORTS|SHARED|CLONE|CHECKOUT|SLOTS|SAVING|LAUNCHER)"
)
_SHORTEST = 8  # characters of a value that is hidden: a shorter one could be any word
_COMPILED = {kind: (hint, re.compile(form)) for kind, (hint, form) in _FORMS.items()}


def secret_in(text: str) -> str | None:
    """Kind of a secret in a text, never the secret itself; None when there is none."""
    return next((kind for kind, (hint, form) in _COMPILED.items() if hint in text and form.search(text)), None)


def redacted(text: str) -> str:
    """The text with every secret replaced by its kind in brackets."""
    for kind, (hint, form) in _COMPILED.items():
        if hint in text:
            text = form.sub(f"[{kind}]", text)
    return text


def logged(text: str) -> str:
    """A text as it may leave the process, in a log or a message.

    Values of variables of the environment that are not known to be harmless are replaced by their names, and every
    secret by its kind.
    """
    for value, name in _hidden():
        if value in text:
            text = text.replace(value, f"[${name}]")
    return redacted(text)


@cache
def _hidden() -> list[tuple[str, str]]:
    """Values of this process's environment that are not shown, and their variables; long ones first."""
    return sorted(hidden_in(os.environ), key=lambda pair: -len(pair[0]))


def hidden_in(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Values that are not shown, and their variables: neither numbers nor paths that there are; of a URL who asks."""
    for name, value in environ.items():
        if "://" in value:
            value = _who_asks(value)
        elif _HARMLESS.fullmatch(name) or value.replace(".", "").isdigit() or _is_path(value):
            continue
        if len(value) >= _SHORTEST:
            yield value, name


def _is_path(value: str) -> bool:
    return value.startswith("/") and os.path.exists(value)


def _who_asks(url: str) -> str:
    """The password in a URL, or the name where it has none, which may be a token."""
    who = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    return who.partition(":")[2] or who


def address(url: str) -> str:
    """The address of a server without who asks: a name may be a token, and a password has no form."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return redacted(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else redacted(url)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a value of JSON, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)


def masked_value(value: Any) -> Any:
    """A value of JSON with every secret in it replaced, in names of fields too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted(name): masked_value(item) for name, item in value.items()}
    return [masked_value(item) for item in value] if isinstance(value, list | tuple) else value
