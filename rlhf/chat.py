"""Messages to token ids and back: a tokenizer with the markers that give a conversation its turns.

    <bos> (<role> content)* <assistant> completion <stop> …

Encoding goes by segment. Markers are put in as ids; content is encoded with the special tokens switched off and
checked, so no text can produce a control id and forge a turn. The loss mask falls out of the segments: it is True on
what the assistant says and on the one stop token after it.

Only `tokenizers` is needed: reading rows and counting tokens does not import torch or transformers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from rlhf.records import write_json

Message = Mapping[str, str]


@dataclass(frozen=True)
class Markers:
    """The control tokens of a template, as they are written in the vocabulary."""

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

WORDS = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,!?]"), behavior="isolated")]
)


def split_words(text: str) -> list[str]:
    """Words and punctuation marks of a text, as a tokenizer of `Chat.from_words` cuts it."""
    return [word for word, _ in WORDS.pre_tokenize_str(text)]


class Chat:
    """A tokenizer and its conversation template, stored beside the model they belong to."""

    def __init__(self, tokenizer: Tokenizer, markers: Markers) -> None:
        """Raises ValueError where a marker is no special token, two share an id, or user or assistant lacks one.

        Pad must not be the stop token: masking one would take the other out of the loss.
        """
        ids = {marker: _special_id(tokenizer, marker) for marker in _marker_texts(markers)}
        if len(set(ids.values())) < 3 + len(markers.roles):
            raise ValueError(f"template markers share ids: {ids}; bos, pad, stop and every role need one of their own")
        if missing := {"user", "assistant"} - set(markers.roles):
            raise ValueError(f"the template has no marker for {sorted(missing)}")
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # content never matches a special token
        self.markers = markers
        self.bos_id = ids[markers.bos]
        self.pad_id = ids[markers.pad]
        self.stop_id = ids[markers.stop]
        self.role_ids = {role: ids[marker] for role, marker in markers.roles.items()}
        self.unk_id = _unknown_id(tokenizer)
        special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.control_ids = frozenset((special - {self.unk_id}) | set(ids.values()))
        self.vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def control_tokens(self) -> list[str]:
        """The control tokens as text, in the order of their ids: what a report looks for in user text."""
        return [str(self.tokenizer.id_to_token(token_id)) for token_id in sorted(self.control_ids)]

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain content: no marker, and never a control id, whatever the text says.

        Raises ValueError on text that is not valid Unicode (a lone surrogate).
        """
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise ValueError(f"text is not valid Unicode: {text[:40]!r}") from error
        # A vocabulary that is looked up by word finds "<end>" even with special tokens off.
        return [self._harmless(token_id) if token_id in self.control_ids else token_id for token_id in ids]

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to and with the marker that opens the assistant's turn."""
        ids, _ = self._encode(messages, trained=set(), stops=True)
        return [*ids, self.role_ids["assistant"]]

    def encode_completion(self, text: str) -> list[int]:
        """Ids of what the assistant says, and one stop token."""
        return [*self.encode_text(text), self.stop_id]

    def encode_conversation(
        self, messages: Sequence[Message], loss_on: Literal["final", "all"] = "final", *, stops: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Ids and loss mask of a whole conversation; both have one entry a token.

        The mask is True on the content and the stop token of the last assistant turn, or of all. `stops=False` leaves
        the stop tokens out, for documents that run on. Raises ValueError where there is no assistant turn to train on.
        """
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns or (loss_on == "final" and turns[-1] != len(messages) - 1):
            raise ValueError(
                f"roles {[message['role'] for message in messages]}: "
                f"loss_on={loss_on!r} needs {'a last' if loss_on == 'final' else 'an'} assistant turn"
            )
        return self._encode(messages, trained=set(turns[-1:] if loss_on == "final" else turns), stops=stops)

    def decode(self, completion_ids: Sequence[int]) -> str:
        """Text of a completion, without stop and control tokens."""
        kept = [token_id for token_id in completion_ids if token_id not in self.control_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json (with the template in Jinja, for others) and chat.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", _tokenizer_config(self))
        write_json(folder / "chat.json", asdict(self.markers))

    @classmethod
    def load(cls, folder: Path) -> "Chat":
        """Read what `save` wrote. Raises ValueError where the folder has no chat.json."""
        path = folder / "chat.json"
        if not path.is_file():
            raise ValueError(f"{folder.name} holds no chat.json: adapt the pretrained tokenizer first (Chat.adapt)")
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), Markers(**json.loads(path.read_text("utf-8"))))

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
        return cls(tokenizer, markers)

    @classmethod
    def adapt(cls, folder: Path, markers: Markers = ADDED_MARKERS) -> "Chat":
        """Give a pretrained tokenizer (a folder with tokenizer.json) the markers it lacks.

        They are appended to its vocabulary, the rest keeps its ids; `extend_embeddings` makes room in the model. The
        tokenizer's own bos is kept where it names one.
        """
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config_path = folder / "tokenizer_config.json"
        config = json.loads(config_path.read_text("utf-8")) if config_path.is_file() else {}
        bos = config.get("bos_token") or markers.bos
        markers = Markers(bos["content"] if isinstance(bos, dict) else bos, markers.pad, markers.stop, markers.roles)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in _marker_texts(markers)])
        return cls(tokenizer, markers)

    def _encode(self, messages: Sequence[Message], trained: set[int], stops: bool) -> tuple[list[int], list[bool]]:
        ids, mask = [self.bos_id], [False]
        for index, message in enumerate(messages):
            if message["role"] not in self.role_ids:
                raise ValueError(f"role {message['role']!r} is not in this template, which has {sorted(self.role_ids)}")
            content = self.encode_text(message["content"])
            if message["role"] == "assistant" and stops:
                content.append(self.stop_id)
            ids += [self.role_ids[message["role"]], *content]
            mask += [False, *[index in trained] * len(content)]
        return ids, mask

    def _harmless(self, token_id: int) -> int:
        if self.unk_id is None:
            control = self.tokenizer.id_to_token(token_id)
            raise ValueError(f"text holds the control token {control!r} as a word: quarantine the row")
        return self.unk_id


def _marker_texts(markers: Markers) -> list[str]:
    return [markers.bos, markers.pad, markers.stop, *markers.roles.values()]


def _special_id(tokenizer: Tokenizer, marker: str) -> int:
    for token_id, token in tokenizer.get_added_tokens_decoder().items():
        if token.content == marker and token.special:
            return int(token_id)
    raise ValueError(f"marker {marker!r} is not a special token of the tokenizer")


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    text = getattr(tokenizer.model, "unk_token", None)
    return None if text is None else tokenizer.token_to_id(text)


def _tokenizer_config(chat: Chat) -> dict[str, Any]:
    markers = chat.markers
    turns = "".join(
        f"{'{% if' if index == 0 else '{% elif'} message['role'] == {json.dumps(role)} %}}"
        f"{{{{ {json.dumps(marker)} + message['content'] }}}}"
        for index, (role, marker) in enumerate(sorted(markers.roles.items()))
    )
    template = (
        f"{{{{ {json.dumps(markers.bos)} }}}}{{% for message in messages %}}{turns}"
        "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
        f"{{% if message['role'] == 'assistant' %}}{{{{ {json.dumps(markers.stop)} }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {json.dumps(markers.roles['assistant'])} }}}}{{% endif %}}"
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": markers.bos,
        "eos_token": markers.stop,
        "pad_token": markers.pad,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    if chat.unk_id is not None:
        config["unk_token"] = chat.tokenizer.id_to_token(chat.unk_id)
    return config
