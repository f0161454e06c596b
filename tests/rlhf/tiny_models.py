"""Tiny random checkpoints, as a hub would hold them: config, weights, tokenizer, and a chat template where the family
has one. All of them take about two seconds.

Together they have what differs between families: absolute and rotary positions, tied and untied embeddings, a
vocabulary that is padded, no bos, no pad, bos that is the stop, one file and shards, byte-level and word-piece texts.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.rlhf import tiny_templates as templates

TEXT = [
    "Once upon a time there was a little dog who liked to play in the park with a red ball.",
    "Please say hello to your friend, and thank you for the nice letter. What is the name of it?",
    "The answer is 42, and 7 of them are good. How are you today? I am fine, thank you very much!",
    "user assistant system model You are a helpful assistant. naïve café Übersetze: 你好 \U0001f600\n\n",
    *["[INST] [/INST] <<SYS>> <</SYS>> <|system|> <|user|> <|assistant|>"] * 3,
]
WORDS = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How byte-level tokenizers of today cut a text before they merge."""
POSITIONS = 128
WINDOW = 96
"""Of the models whose attention looks back so far only."""


@dataclass(frozen=True)
class Vocabulary:
    """What a family's tokenizer holds beside its words."""

    special: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str | None = None
    template: str | None = None
    plain: tuple[str, ...] = ()
    """Added tokens that are not declared special."""


def byte_level(vocabulary: Vocabulary) -> Tokenizer:
    """Byte-level BPE, as GPT-2, Llama-3 and Qwen have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))  # fmt: skip  # noqa: E501
    return _with_added(tokenizer, vocabulary)


def sentencepiece(vocabulary: Vocabulary, prepend: str = "always") -> Tokenizer:
    """BPE over ▁ with bytes for what it lacks, as Llama-2, Mistral and Gemma have; controls come first."""
    controls = ["<unk>", *vocabulary.special]
    alphabet = sorted({character for text in TEXT for character in text.replace(" ", "▁")} - {"\n"})
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([text.strip() for text in TEXT], trainer)
    learnt = json.loads(trained.to_str())["model"]
    pieces = [*controls, *[f"<0x{byte:02X}>" for byte in range(256)]]
    words = [word for word, _ in sorted(learnt["vocab"].items(), key=lambda item: item[1]) if word not in pieces]
    vocab = {piece: index for index, piece in enumerate([*pieces, *words])}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    strip: list[Any] = [decoders.Strip(" ", 1, 0)]
    if prepend == "always":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif prepend == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer, strip = normalizers.Replace(" ", "▁"), []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _with_added(tokenizer, Vocabulary(("<unk>", *vocabulary.special), None, "", plain=vocabulary.plain))


def _with_added(tokenizer: Tokenizer, vocabulary: Vocabulary) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in vocabulary.special])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in vocabulary.plain])
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """tokenizer.json and tokenizer_config.json, as a hub folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    named = {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos, "pad_token": vocabulary.pad}
    config |= {name: text for name, text in {**named, "chat_template": vocabulary.template}.items() if text is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


GPT2 = Vocabulary(("<|endoftext|>",), bos="<|endoftext|>", eos="<|endoftext|>")
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN2 = Vocabulary(CHATML, bos=None, eos="<|im_end|>", pad="<|endoftext|>", template=templates.QWEN2)
QWEN3 = Vocabulary(
    CHATML, bos=None, eos="<|im_end|>", pad="<|endoftext|>", template=templates.QWEN3, plain=("<think>", "</think>")
)
LLAMA3 = Vocabulary(
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
     "<|reserved_0|>"),
    bos="<|begin_of_text|>", eos="<|eot_id|>", template=templates.LLAMA31,
)  # fmt: skip
MISTRAL = Vocabulary(("<s>", "</s>"), bos="<s>", eos="</s>", template=templates.MISTRAL)
GEMMA = Vocabulary(
    ("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    bos="<bos>", eos="<eos>", pad="<pad>", template=templates.GEMMA3,
)  # fmt: skip
PHI3 = Vocabulary(
    ("<s>", "</s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    bos="<s>", eos="<|endoftext|>", pad="<|endoftext|>", template=templates.PHI3,
)  # fmt: skip
OLMO2 = Vocabulary(("<|endoftext|>", "<|padding|>"), bos=None, eos="<|endoftext|>", pad="<|padding|>")

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": POSITIONS, "initializer_range": 0.2,
}  # fmt: skip


def save_model(
    folder: Path, kind: str, config: Mapping[str, Any], vocabulary: Vocabulary, rows: int, shards: str | None = None
) -> None:
    """config.json and random weights from a fixed seed; `rows` of the embedding, `shards` the most bytes of a file."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    made = AutoConfig.for_model(kind, vocab_size=rows, pad_token_id=tokenizer.pad_token_id, **ids, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(made)
    model.save_pretrained(folder, **({} if shards is None else {"max_shard_size": shards}))


def maker(
    kind: str,
    vocabulary: Vocabulary,
    tokenizer: Callable[[Vocabulary], Tokenizer] = byte_level,
    *,
    padded: int = 0,
    shards: str | None = None,
    **config: Any,
) -> Callable[[Path], None]:
    """What writes such a checkpoint into a folder."""

    def make(folder: Path) -> None:
        made = tokenizer(vocabulary)
        save_tokenizer(folder, made, vocabulary)
        rows = made.get_vocab_size(with_added_tokens=True) + padded
        save_model(folder, kind, config, vocabulary, rows, shards)

    return make


ARCHITECTURES: dict[str, Callable[[Path], None]] = {
    "gpt2": maker("gpt2", GPT2, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, initializer_range=0.2),
    "gpt_neox": maker(
        "gpt_neox", GPT2, padded=13, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=POSITIONS, initializer_range=0.2,
    ),
    "llama": maker("llama", LLAMA3, shards="40KB", tie_word_embeddings=False, **SMALL),
    "mistral": maker(
        "mistral", MISTRAL, lambda words: sentencepiece(words, "first"), tie_word_embeddings=False,
        sliding_window=WINDOW, **SMALL,
    ),
    "qwen2": maker("qwen2", QWEN2, padded=20, tie_word_embeddings=True, **SMALL),
    "qwen3": maker("qwen3", QWEN3, padded=20, tie_word_embeddings=True, head_dim=8, **SMALL),
    "gemma3_text": maker(
        "gemma3_text", GEMMA, lambda words: sentencepiece(words, "never"), tie_word_embeddings=True, head_dim=8,
        sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8, **SMALL,
    ),
    "phi3": maker("phi3", PHI3, sentencepiece, tie_word_embeddings=False, **SMALL),
    "olmo2": maker("olmo2", OLMO2, tie_word_embeddings=False, **SMALL),
}  # fmt: skip
"""Name of the architecture to what writes a checkpoint of it into a folder."""

wide_llama = maker("llama", LLAMA3, tie_word_embeddings=False, **SMALL | {"hidden_size": 128, "intermediate_size": 128})
"""A Llama whose rows hold whole 4-bit blocks of 64 weights, which the CPU kernels of bitsandbytes ask for."""
