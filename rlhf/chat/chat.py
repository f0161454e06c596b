"""Messages to token ids and back: a tokenizer with the template that gives a conversation its turns.

Encoding goes by segment. Control tokens are put in as ids; content is encoded with the special tokens switched off and
checked, so no text can produce a control id and forge a turn. The loss mask falls out of the segments: it is True on
what the assistant says and on the one stop token after it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from rlhf.chat.segments import Piece, Segments
from rlhf.chat.template import WORLD_MARKERS, Markers, Message, Template, marker_template
from rlhf.records import write_json

WORDS = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,!?]"), behavior="isolated")]
)

REMEMBERED = 64
"""Texts whose ids are at hand: pairs of one prompt stand together, and have it and their completions in common."""


def split_words(text: str) -> list[str]:
    """Words and punctuation marks of a text, as a tokenizer of `Chat.from_words` cuts it."""
    return [word for word, _ in WORDS.pre_tokenize_str(text)]


class Chat:
    """A tokenizer and its conversation template, stored beside the model they belong to."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        """Raises ValueError where bos, pad or stop is no special token, or pad is a token that the template writes.

        Masking pad would take the stop token, or a turn's opening, out of the loss with it.
        """
        self.tokenizer = tokenizer
        self.template = template
        self.segments = Segments(tokenizer, template.gaps.values())
        self.stop_id = self.segments.special_id(template.stop)
        self.pad_id = self.segments.special_id(template.pad)
        self.bos_id = self.segments.special_id(template.bos) if template.bos else None
        self.prefix_ids = [] if self.bos_id is None else [self.bos_id]
        written = {self.stop_id, *self.prefix_ids, *self.segments.gap_ids}
        if self.pad_id in written:
            raise ValueError(f"the pad token {template.pad!r} shares ids with what the template writes")
        self.unk_id = self.segments.unk_id
        self.control_ids = self.segments.control_ids
        self.roles = template.roles
        self.vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._text_ids = lru_cache(REMEMBERED)(self._encoded_text)
        self._prompt_ids = lru_cache(REMEMBERED)(self._encoded_prompt)

    @property
    def control_tokens(self) -> list[str]:
        """The control tokens as text, in the order of their ids: what a report looks for in user text."""
        return [str(self.tokenizer.id_to_token(token_id)) for token_id in sorted(self.control_ids)]

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer: two that give any text other ids have two."""
        return sha256(self.tokenizer.to_str().encode()).hexdigest()

    def knows(self, messages: Iterable[Message]) -> bool:
        """Whether the template can write turns of these roles in this order, the last one answered or an answer."""
        roles = ["start", *[message["role"] for message in messages]]
        answered = roles[:-1] if roles[-1] == "assistant" else roles
        return all(f"{one}>{other}" in self.template.gaps for one, other in pairwise([*answered, "reply"]))

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain content where an answer stands: no marker, and never a control id, whatever the text says.

        Raises ValueError on text that is not valid Unicode (a lone surrogate).
        """
        return list(self._text_ids(text))

    def _encoded_text(self, text: str) -> tuple[int, ...]:
        ids, _ = self.segments.encode([Piece(self.template.lead + text, content=True)], after=self._reply)
        return tuple(ids)

    def encode_document(self, text: str) -> list[int]:
        """Ids of a document that is no conversation, with what it opens with."""
        ids, _ = self.segments.encode([Piece(self.template.bos), Piece(text, content=True)])
        return ids

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the assistant's answer begins."""
        return list(self._prompt_ids(tuple((message["role"], message["content"]) for message in messages)))

    def _encoded_prompt(self, turns: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        messages: list[Message] = [{"role": role, "content": content} for role, content in turns]
        last = messages[-1]["role"] if messages else "start"
        ids, _ = self.segments.encode([*self._turns(messages, set(), True), Piece(self.template.gap(last, "reply"))])
        return tuple(ids)

    def encode_completion(self, text: str) -> list[int]:
        """Ids of what the assistant says, and one stop token."""
        return [*self.encode_text(text), self.stop_id]

    def encode_conversation(
        self, messages: Sequence[Message], loss_on: Literal["final", "all"] = "final", *, stops: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Ids and loss mask of a whole conversation; both have one entry a token.

        The mask is True on the content and the stop token of the last assistant turn, or of all. A last assistant turn
        is encoded as an answer: `encode_prompt` of what comes before it, then `encode_completion`. `stops=False` leaves
        the stop tokens out, for documents that run on. Raises ValueError where there is no assistant turn to train on.
        """
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        answered = bool(turns) and turns[-1] == len(messages) - 1
        if not turns or (loss_on == "final" and not answered):
            raise ValueError(
                f"roles {[message['role'] for message in messages]}: "
                f"loss_on={loss_on!r} needs {'a last' if loss_on == 'final' else 'an'} assistant turn"
            )
        trained = set(turns) if loss_on == "all" else set()
        if not answered:
            return self.segments.encode(self._turns(messages, trained, stops))
        last = messages[-2]["role"] if len(messages) > 1 else "start"
        opening = self._gap(last, "reply", trained=len(messages) - 2 in trained, stops=stops)
        ids, mask = self.segments.encode([*self._turns(messages[:-1], trained, stops), *opening])
        answer = self.encode_text(messages[-1]["content"]) + [self.stop_id] * stops
        return ids + answer, mask + [True] * len(answer)

    def decode(self, completion_ids: Sequence[int]) -> str:
        """Text of a completion, without stop and control tokens."""
        kept = [token_id for token_id in completion_ids if token_id not in self.control_ids]
        return self.segments.decode(kept, after=self._reply).removeprefix(self.template.lead)

    def jinja(self) -> str:
        """The template in plain Jinja, as others read it."""
        return self.template.jinja()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json (with the template in Jinja, for others) and chat.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", self._tokenizer_config())
        write_json(folder / "chat.json", asdict(self.template))

    @classmethod
    def load(cls, folder: Path) -> "Chat":
        """Read what `save` wrote. Raises ValueError where the folder has no chat.json, or one of another form."""
        path = folder / "chat.json"
        if not path.is_file():
            raise ValueError(f"{folder.name} holds no chat.json: adapt the pretrained tokenizer first (adapt_chat)")
        if not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{folder.name} holds no tokenizer.json")
        about = json.loads(path.read_text("utf-8"))
        try:
            # Folders of earlier versions hold the markers of a template that was code.
            template = marker_template(Markers(**about)) if "roles" in about else Template(**about)
            if "user>reply" not in template.gaps:
                raise ValueError(
                    f"{folder.name}/chat.json has no gap user>reply: its template cannot ask for an answer"
                )
            return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), template)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{folder.name}/chat.json is of another form: {error}") from error

    @classmethod
    def from_words(cls, words: Sequence[str], markers: Markers = WORLD_MARKERS) -> "Chat":
        """A word-level chat over a fixed vocabulary; text is split at white space, other words become <unk>.

        Ids: pad 0, unk 1, bos 2, roles, stop, then `words` in the order given. Raises ValueError on a repeated word.
        """
        controls = [markers.pad, "<unk>", markers.bos, *markers.roles.values(), markers.stop]
        vocabulary = {word: index for index, word in enumerate([*controls, *words])}
        if len(vocabulary) != len(controls) + len(words):
            raise ValueError(f"{len(words)} words and {len(controls)} controls hold only {len(vocabulary)} distinct")
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = WORDS
        tokenizer.decoder = decoders.WordPiece(cleanup=True)  # no blank before a full stop or comma
        tokenizer.add_special_tokens(controls)
        return cls(tokenizer, marker_template(markers))

    @property
    def _reply(self) -> str:
        return self.template.gap("user", "reply")

    def _turns(self, messages: Sequence[Message], trained: set[int], stops: bool) -> list[Piece]:
        """Turns of the past: each with the gap before it, the last one without the gap after it."""
        pieces: list[Piece] = []
        for index, message in enumerate(messages):
            before = messages[index - 1]["role"] if index else "start"
            pieces += self._gap(before, message["role"], trained=index - 1 in trained, stops=stops)
            pieces.append(Piece(self.template.content(message), content=True, trained=index in trained))
        return pieces

    def _gap(self, before: str, after: str, *, trained: bool, stops: bool) -> list[Piece]:
        """A gap, of which the part up to the stop token belongs to the answer before it."""
        text = self.template.gap(before, after)
        if before != "assistant" or self.template.stop not in text:
            return [Piece(text)]
        plain, _, rest = text.partition(self.template.stop)
        return [*([Piece(plain + self.template.stop, trained=trained)] if stops else []), Piece(rest)]

    def _tokenizer_config(self) -> dict[str, Any]:
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.template.bos or None,
            "eos_token": self.template.stop,
            "pad_token": self.template.pad,
            "unk_token": None if self.unk_id is None else self.tokenizer.id_to_token(self.unk_id),
            "clean_up_tokenization_spaces": False,
            "chat_template": self.jinja(),
        }
        return {name: value for name, value in config.items() if value is not None}
