"""A model's own chat template, read once: from Jinja to data, by looking at what it writes.

Conversations whose contents are words of ours are rendered; what stands between the words are the gaps of a
`Template`. Then further conversations are rendered, with other words and other lengths, and must come out as the
template found writes them, to the character. What does not is refused: a template that counts its turns or reads its
contents is more than data.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.chat.template import Message, Template
from rlhf.errors import PreflowError

WALL_SECONDS = 60
"""For all probes together; the program's own limit of CPU seconds ends it earlier unless the machine is busy."""

PROBED = (("user",), ("user", "assistant", "user"), ("user", "assistant", "user", "assistant", "user"))
CHECKED = (*PROBED, ("user", "assistant") * 3 + ("user",))
WORDS = ("Zqalpha", "Zqbravo", "Zqcharlie", "Zqdelta", "Zqecho", "Zqfoxtrot", "Zqgolf", "Zqhotel")
SENTENCES = (
    "What is 2 + 2?", "It's {four} [4], he said: \"yes\".", "x", "Line one.\nLine two,\n\n- and <three> | more",
    "naïve café 你好", "No.", "A % of #1 & {{ braces }} \\ slash", "user: assistant: system: model",
)  # fmt: skip


def derive(jinja: str, named: Mapping[str, str], added: Sequence[str], stop: str | None) -> Template:
    """The template that writes what `jinja` writes, without the system role where that cannot be had; pad is left "".

    `named` are the tokens that Jinja sees (bos_token, eos_token, …), `added` the tokens that may end an answer, `stop`
    the one that does: None is the one the template puts there, or eos. Thinking is switched off where the template
    asks. Raises PreflowError where the template fails, writes other than by roles, or never stops.
    """
    try:
        return _derived(jinja, named, added, stop, [(), ("system",)])
    except _Unlike:
        pass
    try:
        return _derived(jinja, named, added, stop, [()])
    except _Unlike as error:
        raise PreflowError(str(error)) from None


class _Unlike(Exception):
    """What the template wrote is not what a `Template` can write."""


def _derived(
    jinja: str, named: Mapping[str, str], added: Sequence[str], stop: str | None, starts: Sequence[tuple[str, ...]]
) -> Template:
    """`starts` are the roles that conversations are probed to begin with, before the user's."""
    conversations = [(*start, *roles) for start in starts for roles in PROBED]
    probes = [_probe(roles, WORDS) for roles in conversations]
    spaced = [_probe(roles, [f" \n{word}\n " for word in WORDS]) for roles in conversations]
    answered = _probe(("user", "assistant"), WORDS, reply=False)
    checks = [_probe((*start, *roles), SENTENCES[len(roles) // 2 :]) for start in starts for roles in CHECKED]
    texts = iter(_render(jinja, named, [*probes, *spaced, answered, *checks]))

    gaps: dict[str, str] = {}
    for probe in probes:
        _add_gaps(gaps, probe["messages"], next(texts))
    kept = {role for probe in spaced for role in _untrimmed(gaps, probe["messages"], next(texts))}
    opening, _, ending = next(texts).partition(answered["messages"][-1]["content"])
    bos = named.get("bos_token", "")
    template = Template(
        bos=bos if bos and gaps["start>user"].startswith(bos) else "",
        pad="",
        stop=stop or _stop(ending, added, named.get("eos_token")),
        gaps=dict(sorted(gaps.items())),
        lead=_lead(opening, gaps["user>reply"]),
        trims=sorted({role for roles in conversations for role in roles} - kept),
    )
    for probe in checks:
        if (ours := template.render(probe["messages"])) != (text := next(texts)):
            raise _Unlike(f"a conversation of {len(probe['messages'])} turns is {text!r}, by its roles {ours!r}")
    return template


def _probe(roles: Sequence[str], contents: Sequence[str], *, reply: bool = True) -> dict[str, Any]:
    messages = [{"role": role, "content": contents[index % len(contents)]} for index, role in enumerate(roles)]
    return {"messages": messages, "add_generation_prompt": reply}


def _add_gaps(gaps: dict[str, str], messages: Sequence[Message], text: str) -> None:
    """What stands between the contents; each must be there once and in order, and a gap the same everywhere."""
    last = "start"
    for message in messages:
        gap, word, text = text.partition(message["content"])
        if not word or word in text:
            raise _Unlike(f"the text of the {message['role']} is not there once, in its place")
        _add_gap(gaps, f"{last}>{message['role']}", gap)
        last = message["role"]
    _add_gap(gaps, f"{last}>reply", text)


def _add_gap(gaps: dict[str, str], name: str, gap: str) -> None:
    if gaps.setdefault(name, gap) != gap:
        raise _Unlike(f"between {name.replace('>', ' and ')} it writes {gaps[name]!r} here and {gap!r} there")


def _untrimmed(gaps: Mapping[str, str], messages: Sequence[Message], text: str) -> set[str]:
    """Roles whose content did not lose the white space around it."""
    roles = ["start", *[message["role"] for message in messages], "reply"]
    trimmed = (
        f"{gaps[f'{before}>{role}']}{message['content'].strip()}{gaps[f'{role}>{after}']}"
        for message, before, role, after in zip(messages, roles, roles[1:], roles[2:], strict=False)
    )
    return {role for role, expected in zip(roles[1:], trimmed, strict=False) if expected not in text}


def _lead(opening: str, reply: str) -> str:
    """White space between where an answer is asked for and where it stands when it is given."""
    found = opening.rpartition(reply)[2] if reply else ""
    return found if found.isspace() else ""


def _stop(ending: str, added: Sequence[str], eos: str | None) -> str:
    """The first token after an answer."""
    places = {token: ending.index(token) for token in added if token in ending}
    if places:
        return min(places, key=lambda token: (places[token], -len(token)))
    if eos is None:
        raise _Unlike("it writes no token after an answer and the tokenizer names no eos: set base.stop_token")
    return eos


def _render(jinja: str, named: Mapping[str, str], probes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each probe's text. Raises _Unlike where one fails, PreflowError where the program was stopped."""
    from rlhf.chat import render  # imports Jinja, which only this needs

    # Templates of thinking models ask by this name; others do not look.
    request = {"template": jinja, "variables": {**named, "enable_thinking": False}, "probes": list(probes)}
    bare = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}  # and no secrets
    try:
        done = subprocess.run(
            [sys.executable, "-P", render.__file__],
            input=json.dumps(request), capture_output=True, text=True, encoding="utf-8", timeout=WALL_SECONDS,
            env={**bare, "PYTHONIOENCODING": "utf-8"}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PreflowError(f"it takes more than {WALL_SECONDS} s for a few words") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["stopped by its limits of time and memory"])[-1]
        raise PreflowError(f"rendering a few words ended with status {done.returncode}: {last}")
    texts = []
    for answer in json.loads(done.stdout):
        if "error" in answer:
            raise _Unlike(answer["error"])
        texts.append(answer["text"])
    return texts
