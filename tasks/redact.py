"""Secrets: recognise them by their form, and never show them."""

import re
from collections.abc import Iterator
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
    return [masked_value(item) for item in value] if isinstance(value, list) else value
