"""The shapes that rows come in, and the one canonical shape a kind of data has here.

corpus          `text`; or `messages` (+ `run_on`)
demonstrations  `messages`, the last one the assistant's
                also read: prompt/completion, instruction/input/output, an HH dialogue in `chosen`
preferences     `messages`, `chosen`, `rejected`, `annotator`, `origin`, `margin`
                also read: prompt/chosen/rejected as strings or message lists, with or without the prompt in them,
                instruction/input/chosen/rejected, HH dialogues
prompts, eval   `messages`, the last one the user's, `meta` (+ `pool` of prompts)
                also read: prompt, instruction/input, and any demonstration or preference without its answer

Only the shape is looked at here: is everything there and of the right type. What the texts say is the gate's business.
"""

import re
from collections.abc import Mapping
from typing import Any

Message = dict[str, str]
Content = dict[str, Any]

KINDS = ("corpus", "demonstrations", "preferences", "prompts", "eval")

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class Malformed(ValueError):
    """A row that is valid JSON but not of any shape its kind knows. The message is the reason."""


def canonical(kind: str, value: Mapping[str, Any]) -> Content:
    """The content fields of one row, in the canonical shape. Raises Malformed with the reason."""
    if kind == "corpus":
        return _document(value)
    if kind == "demonstrations":
        return {"messages": _conversation(value)}
    if kind == "preferences":
        return _preference(value)
    found = {"messages": _question(value), "meta": _typed(value, "meta", dict, {})}
    return found | {"pool": _typed(value, "pool", str, "any")} if kind == "prompts" else found


def _document(value: Mapping[str, Any]) -> Content:
    if "messages" in value:
        return {"messages": _messages(value["messages"], "messages"), "run_on": _typed(value, "run_on", bool, False)}
    return {"text": _text(value, "text")}


def _conversation(value: Mapping[str, Any]) -> list[Message]:
    if "messages" in value:
        return _messages(value["messages"], "messages")
    if _is_dialogue(value.get("chosen")):
        return _dialogue(value["chosen"], "chosen")
    reply = next((name for name in ("completion", "output", "chosen") if name in value), None)
    if reply is None:
        raise Malformed("no answer: expected one of messages, completion, output, chosen")
    return _prompt(value) + _answer(value, reply)


def _preference(value: Mapping[str, Any]) -> Content:
    if "messages" in value:
        context = _messages(value["messages"], "messages")
        chosen, rejected = _text(value, "chosen"), _text(value, "rejected")
    else:
        (context, chosen), (other, rejected) = _side(value, "chosen"), _side(value, "rejected")
        if context != other:
            raise Malformed("the conversations before chosen and rejected differ")
    margin = value.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        raise Malformed(f"margin: expected a number, found {type(margin).__name__}")
    found = {
        "messages": context,
        "chosen": chosen,
        "rejected": rejected,
        "annotator": _typed(value, "annotator", str, "unknown"),
        "origin": _typed(value, "origin", str, "offline"),
        "margin": margin,
    }
    return found | {"meta": _typed(value, "meta", dict, {})} if "meta" in value else found


def _side(value: Mapping[str, Any], name: str) -> tuple[list[Message], str]:
    """The conversation before one answer of a pair, and that answer."""
    if _is_dialogue(value.get(name)):
        turns = _dialogue(value[name], name)
    elif isinstance(value.get(name), list):
        turns = _messages(value[name], name)
        if "prompt" in value and len(turns) == 1:
            turns = _prompt(value) + turns
    else:
        turns = _prompt(value) + _answer(value, name)
    if turns[-1]["role"] != "assistant":
        raise Malformed(f"{name}: expected the assistant to speak last, found {turns[-1]['role']!r}")
    return turns[:-1], turns[-1]["content"]


def _question(value: Mapping[str, Any]) -> list[Message]:
    if "messages" in value:
        return _unanswered(_messages(value["messages"], "messages"))
    if "prompt" not in value and "instruction" not in value and _is_dialogue(value.get("chosen")):
        return _unanswered(_dialogue(value["chosen"], "chosen"))
    return _prompt(value)


def _unanswered(messages: list[Message]) -> list[Message]:
    return messages[:-1] if len(messages) > 1 and messages[-1]["role"] == "assistant" else messages


def _prompt(value: Mapping[str, Any]) -> list[Message]:
    if isinstance(value.get("prompt"), list):
        return _messages(value["prompt"], "prompt")
    if "prompt" in value:
        prompt = _text(value, "prompt")
        return _dialogue(prompt, "prompt", answered=False) if _is_dialogue(prompt) else [_said("user", prompt)]
    if "instruction" in value:
        parts = [_text(value, "instruction").strip(), (_text(value, "input") if "input" in value else "").strip()]
        return [_said("user", "\n\n".join(part for part in parts if part))]
    raise Malformed("no prompt: expected one of messages, prompt, instruction")


def _answer(value: Mapping[str, Any], name: str) -> list[Message]:
    found = value.get(name)
    if isinstance(found, list):
        return _messages(found, name)
    return [_said("assistant", _text(value, name))]


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else _type(value)
        raise Malformed(f"{name}: expected a list of messages, found {found}")
    for index, message in enumerate(value, start=1):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            keys = ", ".join(map(str, message)) if isinstance(message, dict) else _type(message)
            raise Malformed(f"{name}: message {index} must have role and content alone, found {keys or 'nothing'}")
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                raise Malformed(f"{name}: {key} of message {index} must be text, found {_type(message[key])}")
    return [dict(message) for message in value]


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def _dialogue(text: str, name: str, answered: bool = True) -> list[Message]:
    """Turns of Anthropic's HH-RLHF strings: "\\n\\nHuman: …\\n\\nAssistant: …"."""
    pieces = _HH_TURN.split(text.strip())[1:]  # role, text, role, text, …
    turns = [_said(_HH_ROLES[role], said.strip()) for role, said in zip(pieces[::2], pieces[1::2])]
    if not answered and turns[-1] == _said("assistant", ""):
        turns.pop()  # a prompt that ends in "Assistant:" asks for the answer, it does not hold one
    if answered and len(turns) < 2:
        raise Malformed(f"{name}: expected Human: and Assistant: turns, found {len(turns)} turn")
    return turns


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _text(value: Mapping[str, Any], name: str) -> str:
    if name not in value:
        raise Malformed(f"{name} is missing")
    found = value[name]
    if not isinstance(found, str):
        raise Malformed(f"{name}: expected text, found {_type(found)}")
    return found


def _typed(value: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    found = value.get(name, default)
    if not isinstance(found, kind):
        raise Malformed(f"{name}: expected {kind.__name__}, found {_type(found)}")
    return found


def _type(value: Any) -> str:
    return "null" if value is None else type(value).__name__
