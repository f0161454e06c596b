"""Conversations, however they are written: message lists, HH's "Human:/Assistant:" strings, prompts, instructions."""

import re
from typing import Any

from tasks.shapes.fields import Malformed, Message, Value, messages, nothing_of, said, text, typed

REPLIES = ("completion", "output", "response", "chosen", "answer")
"""Fields that may hold the answer of a demonstration, the surest first."""
QUESTIONS = ("messages", "prompt", "instruction", "question")

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def conversation(value: Value) -> list[Message]:
    """A conversation with its answer."""
    if "messages" in value:
        return with_system(value, messages(value["messages"], "messages"))
    if is_dialogue(value.get("chosen")) and not any(name in value for name in QUESTIONS):
        return with_system(value, dialogue(value["chosen"], "chosen"))
    reply = next((name for name in REPLIES if name in value), None)
    if reply is None:
        raise nothing_of("answer", ("messages", *REPLIES), value)
    turns = answered(value, reply)
    return with_system(value, turns)


def before_answer(value: Value) -> list[Message]:
    """A conversation without its answer, whether or not it came with one."""
    if "messages" in value:
        return with_system(value, _unanswered(messages(value["messages"], "messages")))
    chosen = value.get("chosen")
    if (is_dialogue(chosen) or isinstance(chosen, list)) and not any(name in value for name in QUESTIONS):
        return with_system(value, _unanswered(answered(value, "chosen")))
    return with_system(value, prompt(value))


def side(value: Value, name: str) -> tuple[list[Message], str]:
    """The conversation before one answer of a pair, and that answer."""
    turns = with_system(value, answered(value, name))
    if turns[-1]["role"] != "assistant":
        raise Malformed(f"{name}: expected the assistant to speak last, found {turns[-1]['role']!r}")
    return turns[:-1], turns[-1]["content"]


def answered(value: Value, name: str) -> list[Message]:
    """The prompt with the answer in the field `name`, which may hold the whole conversation itself."""
    found = value.get(name)
    if is_dialogue(found) and _holds_prompt(str(found), value):
        return dialogue(str(found), name)
    if isinstance(found, list):
        return _around(value, name, messages(found, name))
    return [*prompt(value), said("assistant", text(value, name))]


def _around(value: Value, name: str, turns: list[Message]) -> list[Message]:
    """The conversation of an answer that is a list of messages: behind the prompt, or with the prompt in it. Raises
    Malformed where it holds another one: either would be dropped without a word."""
    asked = [_unanswered(messages(value["messages"], "messages"))] if value.get("messages") is not None else []
    if any(value.get(field) is not None for field in QUESTIONS[1:]):
        asked.append(prompt(value))
    if asked and turns[0]["role"] == "assistant":
        return [*asked[0], *turns]
    said_here = [(turn["role"], turn["content"].strip()) for turn in turns]
    for before in ([(turn["role"], turn["content"].strip()) for turn in one] for one in asked):
        if not any(said_here[at : at + len(before)] == before for at in range(len(turns))):
            raise Malformed(f"{name} holds another conversation than the prompt beside it", "contexts")
    return turns


def _holds_prompt(found: str, value: Value) -> bool:
    """Whether a dialogue is the whole conversation. Beside a prompt that it does not begin with it is an answer which
    only looks like one: that to "write a dialogue", say."""
    asked = next((value[field] for field in QUESTIONS if field in value), None)
    start = asked.strip() if isinstance(asked, str) else ""
    return found.strip().removeprefix("Human:").lstrip().startswith(start.removeprefix("Human:").lstrip())


def prompt(value: Value) -> list[Message]:
    """What the user asked, without the answer."""
    if isinstance(value.get("prompt"), list):
        return messages(value["prompt"], "prompt")
    if "prompt" in value:
        asked = text(value, "prompt")
        return dialogue(asked, "prompt", answered=False) if is_dialogue(asked) else [said("user", asked)]
    if "instruction" in value:
        parts = [text(value, "instruction").strip(), typed(value, "input", str, "").strip()]
        return [said("user", "\n\n".join(part for part in parts if part))]
    if "question" in value:
        return [said("user", text(value, "question"))]
    raise nothing_of("prompt", QUESTIONS, value)


def with_system(value: Value, turns: list[Message]) -> list[Message]:
    """What the field `system` says comes first, where the conversation has no such message of its own."""
    system = typed(value, "system", str, "")
    if not system.strip() or turns[0]["role"] == "system":
        return turns
    return [said("system", system), *turns]


def is_dialogue(value: Any) -> bool:
    """Whether a text is one of Anthropic's HH-RLHF strings."""
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def dialogue(found: str, name: str, answered: bool = True) -> list[Message]:
    """Turns of "\\n\\nHuman: …\\n\\nAssistant: …"."""
    pieces = _HH_TURN.split(found.strip())[1:]  # role, text, role, text, …
    turns = [said(_HH_ROLES[role], words.strip()) for role, words in zip(pieces[::2], pieces[1::2])]
    if not answered and turns[-1] == said("assistant", ""):
        turns.pop()  # a prompt that ends in "Assistant:" asks for the answer, it does not hold one
    if answered and len(turns) < 2:
        raise Malformed(f"{name}: expected Human: and Assistant: turns, found {len(turns)} turn")
    return turns


def _unanswered(turns: list[Message]) -> list[Message]:
    return turns[:-1] if len(turns) > 1 and turns[-1]["role"] == "assistant" else turns
