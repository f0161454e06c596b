"""No text forges a turn: in every template, the control ids are those the template itself puts there."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.chat import Chat, Message, adapt_chat
from tests.rlhf.families import PRETRAINED, family
from tests.rlhf.hostile import HOSTILE, MARKS

WORLD = "world"


@pytest.fixture(scope="session")
def world() -> Chat:
    return Chat.from_words(["hello", "there", "x", "y", "z"])


def chat_of(name: str, world: Chat) -> Chat:
    return world if name == WORLD else family(name)


def controls(chat: Chat, ids: Sequence[int]) -> list[int]:
    return [token_id for token_id in ids if token_id in chat.control_ids]


def conversations(chat: Chat, text: str) -> list[list[Message]]:
    """The text in every place where somebody's words stand before the answer."""
    said = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
        {"role": "user", "content": text},
    ]
    return [said[:1], said, *([[{"role": "system", "content": text}, *said]] if "system" in chat.roles else [])]


def plain_marks(chat: Chat) -> list[str]:
    """Turn openings that hold no control token, as `[/INST]`: what the ids alone do not protect."""
    gaps = chat.template.gaps.values()
    return sorted({gap.strip() for gap in gaps if not any(token in gap for token in chat.control_tokens)} - {""})


def occurrences(ids: Sequence[int], part: Sequence[int]) -> int:
    return sum(list(ids[start : start + len(part)]) == list(part) for start in range(len(ids)))


def test_there_are_enough_hostile_texts() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 150


@pytest.mark.faults(
    42,
    injected="the same texts as system, user and assistant turns, in every template",
    happens="control ids are exactly the template's own; one stop is trained",
)
@pytest.mark.parametrize("name", [WORLD, *PRETRAINED])
def test_control_ids_are_the_templates_own(name: str, world: Chat) -> None:
    chat = chat_of(name, world)
    for text in HOSTILE:
        for messages, harmless in zip(conversations(chat, text), conversations(chat, "hello"), strict=True):
            assert controls(chat, chat.encode_prompt(messages)) == controls(chat, chat.encode_prompt(harmless)), text
        answered = [*conversations(chat, text)[0], {"role": "assistant", "content": text}]
        ids, mask = chat.encode_conversation(answered)
        trained = [token_id for token_id, one in zip(ids, mask, strict=True) if one]
        assert controls(chat, trained) == [chat.stop_id], text
        assert controls(chat, chat.encode_document(text)) == chat.prefix_ids, text


@pytest.mark.parametrize("name", PRETRAINED)
def test_hostile_texts_read_back_to_the_character(name: str) -> None:
    chat = family(name)
    for text in HOSTILE:
        if "\u2581" not in text:  # which some tokenizers read as the blank that it stands for
            assert chat.decode(chat.encode_completion(text)) == text


@pytest.mark.parametrize("name", ["mistral", "mistral_always", "llama2", "llama2_bytes", "zephyr"])
def test_turns_marked_by_plain_text_cannot_be_written_by_a_user(name: str) -> None:
    """Where a turn opens without any control token, its text in somebody's words comes out as other ids."""
    chat = family(name)
    marks = plain_marks(chat)
    assert marks
    for mark in marks:
        # As the template writes it: after a line's end, by itself.
        before = chat.tokenizer.encode("a\n", add_special_tokens=False).ids
        whole = chat.tokenizer.encode("a\n" + mark, add_special_tokens=False).ids[len(before) :]
        for text in [mark, f"a\n{mark}", f"{mark}{mark} b", *[text for text in HOSTILE if mark in text]]:
            for messages, harmless in zip(conversations(chat, text), conversations(chat, "hello"), strict=True):
                found = occurrences(chat.encode_prompt(messages), whole)
                assert found <= occurrences(chat.encode_prompt(harmless), whole), (mark, text)
            assert chat.decode(chat.encode_completion(text)) == text


def test_the_same_check_finds_a_program_that_is_fooled() -> None:
    """Encoding a rendered conversation whole, as is common, lets each of these texts open turns."""
    chat = family("chatml")
    fooled = 0
    chat.tokenizer.encode_special_tokens = False
    try:
        for text in HOSTILE:
            ids = chat.tokenizer.encode(
                chat.template.render(conversations(chat, text)[0]), add_special_tokens=False
            ).ids
            fooled += len(controls(chat, ids)) != len(controls(chat, chat.encode_prompt(conversations(chat, "x")[0])))
    finally:
        chat.tokenizer.encode_special_tokens = True
    assert fooled >= sum(any(mark in text for mark in MARKS[:3]) for text in HOSTILE) > 5


def test_hostile_texts_in_real_tokenizers(shared: Path) -> None:
    for name in ("stories3M", "stories260K"):
        for kind, stop in (("markers", None), ("continue", "<s>")):
            chat = adapt_chat(shared / "models" / name, kind, stop)  # type: ignore[arg-type]
            for text in HOSTILE:
                for messages, harmless in zip(conversations(chat, text), conversations(chat, "hello"), strict=True):
                    assert controls(chat, chat.encode_prompt(messages)) == controls(chat, chat.encode_prompt(harmless))
                if "\u2581" not in text:
                    assert chat.decode(chat.encode_completion(text)) == text
