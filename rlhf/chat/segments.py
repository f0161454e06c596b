"""Text with control tokens to ids, piece by piece: the part of encoding that must not be fooled.

A template's own text is read for control tokens; content never is. Plain text that stands between two control tokens
is encoded together, as libraries do that encode a rendered conversation whole: so ordinary text gets the same ids.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text."""

    text: str
    content: bool = False
    """Said by somebody: it holds no control token, whatever it looks like."""
    trained: bool = False


class Segments:
    """How one tokenizer encodes pieces."""

    def __init__(self, tokenizer: Tokenizer, gaps: Iterable[str]) -> None:
        """`gaps` are the texts that a template writes, which are the only ones read for control tokens."""
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # content never matches a special token
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token.content: int(token_id) for token_id, token in added.items() if token.special}
        self._pattern = _pattern([token for token in added.values() if token.special])
        gaps = set(gaps)
        self.gap_ids = {part for gap in gaps for part in self._parts(gap) if isinstance(part, int)}
        unk = getattr(tokenizer.model, "unk_token", None)
        unk_id = None if unk is None else tokenizer.token_to_id(unk)
        self.unk_id = None if unk_id in self.gap_ids else unk_id
        self.control_ids = frozenset(set(self._special.values()) - {self.unk_id})
        self._bare, self._prefixed = _without_prefix(tokenizer)
        self._markers = self._plain_markers(gaps)

    def special_id(self, text: str) -> int:
        """The id of a special token. Raises ValueError where it is none."""
        if text not in self._special:
            raise ValueError(f"marker {text!r} is not a special token of the tokenizer")
        return self._special[text]

    def encode(self, pieces: Iterable[Piece], after: str | None = None) -> tuple[list[int], list[bool]]:
        """Ids, and which of them were trained pieces.

        `after` is the text that was encoded before, None at the start of everything. Raises ValueError on text that is
        not valid Unicode, and on text that holds a control token as a word of a vocabulary without an unknown word.
        """
        ids: list[int] = []
        mask: list[bool] = []
        context = _Context(after, self._parts(after or ""))
        run: list[Piece] = []

        def flush() -> None:
            found, trained = self._run(run, context.tokenizer(self))
            ids.extend(found)
            mask.extend(trained)
            context.advance(run)
            run.clear()

        for piece in pieces:
            for part in self._cut(piece.text) if piece.content else self._parts(piece.text):
                if part is None:
                    flush()
                elif isinstance(part, int):
                    flush()
                    ids.append(part)
                    mask.append(piece.trained)
                    context.control()
                else:
                    run.append(Piece(part, trained=piece.trained))
        flush()
        return ids, mask

    def decode(self, ids: Sequence[int], after: str) -> str:
        """Text of ids that stand after the text `after`, which may decide whether a first blank is shown."""
        if _Context(after, self._parts(after)).tokenizer(self) is self.tokenizer:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        anchor = self._bare.encode("a", add_special_tokens=False).ids
        known = self.tokenizer.decode(anchor, skip_special_tokens=False)
        return str(self.tokenizer.decode([*anchor, *ids], skip_special_tokens=False))[len(known) :]

    def _run(self, run: Sequence[Piece], tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        """Ids of pieces encoded together. A token over an edge belongs to what comes after it."""
        text = "".join(piece.text for piece in run)
        ids = self._plain(tokenizer, text)
        mask: list[bool] = []
        end = 0
        for number, piece in enumerate(run):
            end += len(piece.text)
            last = number + 1 == len(run) or len({one.trained for one in run}) == 1
            reached = len(ids) if last else _shared(ids, self._plain(tokenizer, text[:end]))
            mask += [piece.trained] * (reached - len(mask))
            if last:
                break
        return ids, mask

    def _plain(self, tokenizer: Tokenizer, text: str) -> list[int]:
        if not text:
            return []
        try:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(f"text is not valid Unicode: {text[:40]!r}") from error
        # A vocabulary that is looked up by word finds "<end>" even with special tokens off.
        return [self._harmless(token_id) if token_id in self.control_ids else token_id for token_id in ids]

    def _harmless(self, token_id: int) -> int:
        if self.unk_id is None:
            control = self.tokenizer.id_to_token(token_id)
            raise ValueError(f"text holds the control token {control!r} as a word: quarantine the row")
        return self.unk_id

    def _parts(self, text: str) -> list[int | str]:
        """A template's own text as control ids and what is plain between them."""
        if self._pattern is None:
            return [text] if text else []
        found = self._pattern.split(text)  # plain, token, plain, token, …, plain
        parts = [self._special[part.strip()] if index % 2 else part for index, part in enumerate(found)]
        return [part for part in parts if part != ""]

    def _plain_markers(self, gaps: Iterable[str]) -> list[tuple[str, int]]:
        """Turn marks that are plain text, which a user can write, and where to cut them.

        Cut there, the text is encoded as other ids than the template's, and decodes to the same. A mark whose every cut
        leaves the ids as they are (a tokenizer of single characters) cannot be told apart.
        """
        plain = {gap.strip() for gap in gaps if not any(isinstance(part, int) for part in self._parts(gap))}
        marks = []
        for mark in sorted(plain - {""}, key=lambda mark: (-len(mark), mark)):
            whole = self._plain(self._bare, mark)
            for place in range(1, len(mark)):
                if self._plain(self._bare, mark[:place]) + self._plain(self._bare, mark[place:]) != whole:
                    marks.append((mark, place))
                    break
        return marks

    def _cut(self, text: str) -> list[str | None]:
        """Content in parts; None is a place where its encoding is broken."""
        parts: list[str | None] = [text]
        for mark, place in self._markers:
            cut: list[str | None] = []
            for part in parts:
                inside = [] if part is None else part.split(mark)
                cut += [part] if part is None else [inside[0]]
                for rest in inside[1:]:
                    cut[-1] = (cut[-1] or "") + mark[:place]
                    cut += [None, mark[place:] + rest]
            parts = cut
        return parts


class _Context:
    """What was encoded last, which decides how the next plain text is: some tokenizers put a blank before a text."""

    def __init__(self, after: str | None, parts: Sequence[int | str]) -> None:
        self._start = after is None
        self._control = bool(parts) and isinstance(parts[-1], int)

    def tokenizer(self, segments: Segments) -> Tokenizer:
        """The tokenizer itself where a text begins, the one without a blank where it goes on."""
        whole = self._start or (self._control and segments._prefixed == "always")
        return segments.tokenizer if whole else segments._bare

    def control(self) -> None:
        self._start, self._control = False, True

    def advance(self, run: Sequence[Piece]) -> None:
        if any(piece.text for piece in run):
            self._start = self._control = False


def _pattern(tokens: Sequence[Any]) -> re.Pattern[str] | None:
    """Finds special tokens, the longest first, with the white space that some of them take along."""
    texts = sorted(tokens, key=lambda token: (-len(token.content), token.content))
    options = [
        (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
        for token in texts
    ]
    return re.compile(f"({'|'.join(options)})") if options else None


def _without_prefix(tokenizer: Tokenizer) -> tuple[Tokenizer, str]:
    """The tokenizer without the blank it puts before a text, and when it does: "never", "first" or "always".

    "first" is before the first text only, "always" is also after each control token.
    """
    about = json.loads(tokenizer.to_str())
    when = "never"
    for part in _steps(about, "normalizer", "normalizers"):
        if part["type"] == "Prepend":
            part.update(type="Replace", pattern={"String": ""}, content="")
            when = "always"
    for part in _steps(about, "pre_tokenizer", "pretokenizers"):
        if part["type"] == "Metaspace" and part["prepend_scheme"] != "never":
            when, part["prepend_scheme"] = part["prepend_scheme"], "never"
        elif part["type"] == "ByteLevel" and part["add_prefix_space"]:
            when, part["add_prefix_space"] = "always", False
    if when == "never":
        return tokenizer, when
    about["normalizer"] = _dropped(about["normalizer"])
    bare = Tokenizer.from_str(json.dumps(about))
    bare.encode_special_tokens = True
    return bare, when


def _steps(about: dict[str, Any], name: str, inside: str) -> list[dict[str, Any]]:
    step = about[name]
    return [] if step is None else step.get(inside, [step])


def _dropped(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Without the steps that were made empty."""
    if normalizer is None or normalizer.get("pattern") == {"String": ""}:
        return None
    if "normalizers" in normalizer:
        kept = [step for step in normalizer["normalizers"] if step.get("pattern") != {"String": ""}]
        return {**normalizer, "normalizers": kept}
    return normalizer


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two lists have in common from their start."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count
