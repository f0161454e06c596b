"""Tiny models for the tests of the library, made in milliseconds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.chat import Chat
from rlhf.models import Policy, extend_embeddings, new_policy, save_policy
from tests.rlhf.stub_sampler import Stub, stub_of
from tests.rlhf.tiny_models import ARCHITECTURES

torch.set_num_threads(1)

WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture(scope="session")
def chat() -> Chat:
    return Chat.from_words(WORDS)


def tiny_llama(chat: Chat) -> Policy:
    """Rotary positions; weights wide enough for distributions that are far from uniform."""
    return new_policy(chat, 3, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, init_std=0.3)


def tiny_gpt2(chat: Chat) -> Policy:
    """Learned absolute positions: wrong position ids show, which rotary models forgive."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=chat.vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, summary_first_dropout=0.0,
        attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model: Any = GPT2LMHeadModel(config)
    extend_embeddings(model, chat)
    return Policy(model.eval(), chat)


@pytest.fixture(params=["llama", "gpt2"])
def policy(request: pytest.FixtureRequest, chat: Chat) -> Policy:
    return tiny_llama(chat) if request.param == "llama" else tiny_gpt2(chat)


@pytest.fixture
def llama(chat: Chat) -> Policy:
    return tiny_llama(chat)


@pytest.fixture
def stub(llama: Policy, tmp_path: Path) -> Iterator[Stub]:
    """A sampler server that was started on `llama`."""
    save_policy(llama, tmp_path / "started_on")
    with stub_of(tmp_path / "started_on") as found:
        yield found


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("checkpoints")

    def at(name: str) -> Path:
        if not (root / name).exists():
            ARCHITECTURES[name](root / name)
        return root / name

    return at
