"""Chats of every family: added markers, no turns at all, and each of `tiny_templates` with a tokenizer of its kind."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf.chat import Chat, adapt_chat
from tests.rlhf import tiny_templates as templates
from tests.rlhf.tiny_models import (
    CHATML,
    GEMMA,
    GPT2,
    LLAMA3,
    MISTRAL,
    PHI3,
    QWEN2,
    QWEN3,
    Vocabulary,
    byte_level,
    save_tokenizer,
    sentencepiece,
)  # fmt: skip

ANGLES = ("<s>", "</s>")
always, first, never = (partial(sentencepiece, prepend=when) for when in ("always", "first", "never"))
OWN: dict[str, tuple[Callable[[Vocabulary], object], Vocabulary]] = {
    "chatml": (byte_level, Vocabulary(CHATML, None, "<|im_end|>", "<|endoftext|>", templates.CHATML)),
    "qwen2": (byte_level, QWEN2),
    "qwen3": (byte_level, QWEN3),
    "llama3": (byte_level, replace(LLAMA3, template=templates.LLAMA3)),
    "llama31": (byte_level, LLAMA3),
    "gemma": (never, replace(GEMMA, template=templates.GEMMA)),
    "gemma3": (never, GEMMA),
    "zephyr": (always, Vocabulary(ANGLES, "<s>", "</s>", "</s>", templates.ZEPHYR)),
    "phi3": (always, PHI3),
    "mistral": (first, MISTRAL),
    "mistral_always": (always, MISTRAL),
    "llama2": (always, Vocabulary(ANGLES, "<s>", "</s>", None, templates.LLAMA2)),
    "llama2_bytes": (byte_level, Vocabulary(ANGLES, "<s>", "</s>", None, templates.LLAMA2)),
}
"""Models that bring a template: how their tokenizer works, and what is in it."""
MADE = {
    "markers": (byte_level, GPT2, "markers"),
    "markers_pieces": (always, replace(MISTRAL, template=None), "markers"),
    "continue": (byte_level, GPT2, "continue"),
    "continue_pieces": (always, replace(MISTRAL, template=None), "continue"),
    "continue_first": (first, replace(MISTRAL, template=None), "continue"),
}  # fmt: skip
PRETRAINED = [*OWN, *MADE]


def save_family(folder: Path, name: str) -> None:
    """The tokenizer's files, as a hub folder has them."""
    tokenizer, vocabulary = (OWN | MADE)[name][:2]
    save_tokenizer(folder, tokenizer(vocabulary), vocabulary)


@cache
def family(name: str) -> Chat:
    """The chat of a family."""
    with TemporaryDirectory() as folder:
        save_family(Path(folder), name)
        return adapt_chat(Path(folder), MADE[name][2] if name in MADE else "auto")
