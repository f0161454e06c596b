"""Chat templates as data: what is written before, between and after the contents of a conversation's turns.

    start>user  content  user>assistant  content  assistant>user  content  user>reply

A gap is the text between the content of one turn and that of the next. Which one it is follows from the two roles
alone; `start` is before the first turn, `reply` is the turn that is to be answered. This holds what model families do:
a marker before each role, a header and a closing token, a system prompt that is there unasked (it is part of
`start>user`), one that goes into the user's turn (`system>user` is two line breaks), and an empty thought before the
answer (it is part of `user>reply`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Template:
    """A chat template; texts are as they stand in the vocabulary and between its tokens."""

    bos: str
    """What a document opens with, "" where nothing does."""
    pad: str
    stop: str
    """The token that ends an answer. It is trained; what follows it belongs to the next turn's opening."""
    gaps: Mapping[str, str]
    """"<role>><role>" to the text between their contents."""
    trims: list[str] = field(default_factory=list)
    """Roles whose content loses the white space around it. A completion, which is sampled, never does."""
    lead: str = ""
    """White space that the assistant itself writes before its answer."""

    @property
    def roles(self) -> frozenset[str]:
        """Roles that a conversation may hold."""
        return frozenset(side for gap in self.gaps for side in gap.split(">")) - {"start", "reply"}

    def content(self, message: Message) -> str:
        """The content of a turn as the template writes it."""
        text = message["content"]
        return text.strip() if message["role"] in self.trims else text

    def gap(self, before: str, after: str) -> str:
        """What stands between two contents. Raises ValueError where the template knows no such order of roles."""
        if (found := self.gaps.get(f"{before}>{after}")) is not None:
            return found
        for role in {before, after} - {"start", "reply"} - self.roles:
            raise ValueError(f"role {role!r} is not in this template, which has {sorted(self.roles)}")
        known = ", ".join(sorted(self.gaps))
        raise ValueError(f"a turn of {after!r} after {before!r} is not in this template, which has {known}")

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation up to where the assistant's answer begins."""
        text, last = "", "start"
        for message in messages:
            text += self.gap(last, message["role"]) + self.content(message)
            last = message["role"]
        return text + self.gap(last, "reply")

    def jinja(self) -> str:
        """The same template in Jinja, for libraries that read it from tokenizer_config.json.

        The last turn, where it is the assistant's, is written as an answer: opened by `reply`, ended by the stop token.
        """
        gaps = ", ".join(f"{_literal(name)}: {_literal(self.gaps[name])}" for name in sorted(self.gaps))
        trims = ", ".join(map(_literal, sorted(self.trims)))
        return (
            f"{{%- set gaps = {{{gaps}}} -%}}"
            "{%- set turn = namespace(last='start') -%}"
            "{%- for message in messages -%}"
            "{%- set answer = loop.last and message['role'] == 'assistant' and not add_generation_prompt -%}"
            "{%- set gap = turn.last + '>' + ('reply' if answer else message['role']) -%}"
            "{%- if gap not in gaps -%}{{- raise_exception('no such turn in this template: ' + gap) -}}{%- endif -%}"
            "{{- gaps[gap] -}}"
            f"{{%- set trimmed = message['role'] in [{trims}] and not answer -%}}"
            f"{{%- if answer -%}}{{{{- {_literal(self.lead)} -}}}}{{%- endif -%}}"
            "{{- message['content'] | trim if trimmed else message['content'] -}}"
            f"{{%- if answer -%}}{{{{- {_literal(self.stop)} -}}}}{{%- endif -%}}"
            "{%- set turn.last = message['role'] -%}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- gaps[turn.last + '>reply'] -}}{%- endif -%}"
        )


@dataclass(frozen=True)
class Markers:
    """The control tokens of a template with one marker a turn, as they are written in the vocabulary."""

    bos: str
    pad: str
    stop: str
    roles: Mapping[str, str]
    """Role to the marker that opens its turn; "user" and "assistant" at least."""


WORLD_MARKERS = Markers(bos="<bos>", pad="<pad>", stop="<end>", roles={"user": "<user>", "assistant": "<bot>"})
ADDED_MARKERS = Markers(
    bos="<s>",
    pad="<|pad|>",
    stop="<|end|>",
    roles={"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"},
)


def marker_template(markers: Markers) -> Template:
    """`<bos> (<role> content)* <assistant> answer <stop> …`: turns of any role in any order.

    Raises ValueError where two markers are the same text, or user or assistant has none.
    """
    texts = [markers.pad, markers.stop, *markers.roles.values()]
    if len(set(texts)) < len(texts):
        raise ValueError(f"template markers share ids: {texts}; pad, stop and every role need one of their own")
    if missing := {"user", "assistant"} - set(markers.roles):
        raise ValueError(f"the template has no marker for {sorted(missing)}")
    before = {"start": markers.bos, "assistant": markers.stop} | {
        role: "" for role in markers.roles if role != "assistant"
    }
    after = {**markers.roles, "reply": markers.roles["assistant"]}
    gaps = {f"{one}>{other}": end + opening for one, end in before.items() for other, opening in after.items()}
    return Template(markers.bos, markers.pad, markers.stop, gaps)


def running_template(bos: str, pad: str, stop: str) -> Template:
    """No turns at all: the answer goes on where the prompt ended, as models of plain text do.

    An earlier answer ends its document, and the next turn opens another; a system text is a paragraph of its own.
    """
    again = stop if bos in ("", stop) else stop + bos
    gaps = {
        "start>user": bos, "start>system": bos, "start>assistant": bos, "start>reply": bos,
        "system>user": "\n\n", "system>reply": "\n\n", "user>assistant": "", "user>reply": "",
        "assistant>user": again, "assistant>reply": again,
    }  # fmt: skip
    return Template(bos, pad, stop, gaps)


def _literal(text: str) -> str:
    """A text as a Jinja string; Jinja reads the escapes of Python."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r") + "'"
