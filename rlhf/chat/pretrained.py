"""The chat of a pretrained model: its tokenizer with its own template, with markers of ours, or with no turns."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer

from rlhf.chat.chat import Chat
from rlhf.chat.derive import derive
from rlhf.chat.template import ADDED_MARKERS, Markers, Template, marker_template, running_template
from rlhf.errors import PreflowError

Kind = Literal["auto", "markers", "continue"]
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def adapt_chat(folder: Path, kind: Kind = "auto", stop_token: str | None = None) -> Chat:
    """The chat of a hub folder (tokenizer.json, tokenizer_config.json); its ids stay as they are.

    `auto` takes the template of the tokenizer's own and, where it has none, `markers`: ours, one token a role, which
    are added to the vocabulary (`extend_embeddings` makes room in the model). `continue` writes no turns. `stop_token`
    names the token that ends an answer where the template's, or eos, is not it. Raises PreflowError where files lack,
    the stop token is none of the tokenizer's, or the template cannot be reproduced.
    """
    about = _read_tokenizer(folder)
    named = _named_tokens(folder)
    bos, eos = named.get("bos_token", ""), stop_token or named.get("eos_token")
    if stop_token is not None and stop_token not in _added(about):
        raise PreflowError(
            f"base.stop_token={stop_token!r} is no added token of {folder.name}, which has {', '.join(_added(about))}"
        )
    jinja = _jinja(folder) if kind == "auto" else None
    if kind == "continue":
        if eos is None:
            raise PreflowError(f"the tokenizer of {folder.name} names no eos token: set base.stop_token")
        template = running_template(bos, "", eos)
    elif jinja is None:
        markers = Markers(bos, ADDED_MARKERS.pad, stop_token or ADDED_MARKERS.stop, ADDED_MARKERS.roles)
        return _finished(about, marker_template(markers), markers.roles.values())
    else:
        template = _own(folder.name, jinja, named, _added(about), stop_token)
    return _finished(about, replace(template, pad=_pad(about, named, template)))


def _own(name: str, jinja: str, named: dict[str, str], added: list[str], stop_token: str | None) -> Template:
    try:
        return derive(jinja, named, added, stop_token)
    except PreflowError as error:
        raise PreflowError(
            f"the chat template of {name} cannot be used ({error}): "
            "set base.template=markers for turn tokens of ours, or base.template=continue for none"
        ) from None


def _finished(about: dict[str, Any], template: Template, markers: Iterable[str] = ()) -> Chat:
    """The tokenizer with all that the template writes declared special, and what it lacks added."""
    gaps = template.gaps.values()
    ends = {template.bos, template.pad, template.stop}
    for token in about["added_tokens"]:
        # What is not special may stand in a user's text: a token that opens a turn must not.
        if token["content"].strip():
            token["special"] |= token["content"] in ends or any(token["content"] in gap for gap in gaps)
    tokenizer = Tokenizer.from_str(json.dumps(about))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    needed = [text for text in (template.bos, template.pad, template.stop, *markers) if text]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in needed if text not in _added(about)])
    return Chat(tokenizer, template)


def _pad(about: dict[str, Any], named: dict[str, str], template: Template) -> str:
    """A token that nothing else needs: the tokenizer's pad, a reserved one, or one that is added."""
    taken = {template.bos, template.stop, named.get("unk_token")}
    special = [token["content"] for token in about["added_tokens"] if token["special"]]
    spare = [text for sign in ("pad", "reserved", "unused") for text in special if sign in text.lower()]
    written = "".join(template.gaps.values())
    free = (text for text in (named.get("pad_token"), *spare) if text and text not in taken and text not in written)
    return next(free, ADDED_MARKERS.pad)


def _added(about: dict[str, Any]) -> list[str]:
    return [token["content"] for token in about["added_tokens"] if token["content"].strip()]


def _read_tokenizer(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise PreflowError(
            f"{folder.name} has no tokenizer.json: write one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    about = read_json(path)
    if not isinstance(about.get("model"), dict) or not isinstance(about.get("added_tokens"), list):
        raise PreflowError(f"{folder.name}/tokenizer.json is no tokenizer of the library tokenizers")
    return about


def _named_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, … to their texts, as far as the folder names them."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name, value in read_json(folder / file).items():
            if name in NAMED and value is not None:
                found[name] = value["content"] if isinstance(value, dict) else value
    return found


def _jinja(folder: Path) -> str | None:
    """The template as its folder holds it, a file of its own or in the tokenizer's settings; of several the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = read_json(folder / name).get("chat_template")
        if isinstance(found, list):
            found = {one["name"]: one["template"] for one in found}.get("default")
        if found:
            return str(found)
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is no file. Raises PreflowError where it holds something else."""
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise PreflowError(
            f"{path.parent.name}/{path.name} holds no JSON object: a pointer of Git LFS is fetched by `git lfs pull`, "
            "else fetch the file again"
        )
    return found
