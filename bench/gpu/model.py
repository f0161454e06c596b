"""A policy of random weights of a shape, made where it is to be, and rows of random tokens."""

import random
from typing import Any

import torch

from bench.gpu.setting import Setting
from rlhf.chat import Chat
from rlhf.models import Policy
from rlhf.models.pretrained import use_chat_ids

SEED = 7


def chat_of(setting: Setting) -> Chat:
    """As many words as the shape has rows of embeddings for."""
    controls = Chat.from_words([]).vocab_size
    return Chat.from_words([f"w{number}" for number in range(setting.shape.vocab - controls)])


def policy_of(setting: Setting, chat: Chat) -> Policy:
    """In the setting's precision, ready to be trained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = setting.shape
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions, initializer_range=shape.init_std, tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(SEED)
    with torch.device(setting.device):
        model: Any = LlamaForCausalLM(config)
    use_chat_ids(model, chat)
    return Policy(model.to(getattr(torch, setting.dtype)).eval(), chat)


def endless(chat: Chat) -> Chat:
    """A chat whose stop token is one past the end of the vocabulary, which no model can sample."""
    chat.stop_id = chat.vocab_size
    return chat


def texts(setting: Setting, count: int, bounds: tuple[int, int]) -> list[list[int]]:
    """Random tokens, no control tokens among them, of random lengths."""
    draw = random.Random(SEED)
    words = range(setting.shape.vocab - 100, setting.shape.vocab)
    return [draw.choices(words, k=draw.randint(*bounds)) for _ in range(count)]
