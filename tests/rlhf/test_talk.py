"""A conversation token by token says what the sampler says, in pieces that join to the whole."""

from pathlib import Path

import pytest

from rlhf.chat import WORLD_MARKERS, Chat, marker_template
from rlhf.models import Policy, adapt_policy, new_policy
from rlhf.sampler import sample
from rlhf.seeding import derive
from rlhf.talk import Talk, _pieces, stream
from tests.rlhf.tiny_models import ARCHITECTURES


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_streamed_ids_are_the_sampled_ones(policy: Policy, temperature: float) -> None:
    prompts = [policy.chat.encode_prompt([{"role": "user", "content": text}]) for text in ("w1 w2 w3", "w4")]
    for prompt in prompts:
        for seed in range(3):
            (whole,) = sample(policy, [prompt], max_new_tokens=20, temperature=temperature, group_size=1, seed=seed)
            assert list(stream(policy, prompt, max_new_tokens=20, temperature=temperature, seed=seed)) == whole.ids


@pytest.mark.parametrize("family", ["gpt2", "mistral", "qwen3", "gemma3_text"])
def test_every_family_talks(family: str, tmp_path: Path) -> None:
    """Byte-level texts and word pieces, a window, no bos, an opening that is plain text."""
    ARCHITECTURES[family](tmp_path)
    policy = adapt_policy(tmp_path, seed=0)
    talk = Talk(policy, temperature=1.0, max_new_tokens=12, seed=1)
    for text in ("Hello!", "And you?"):
        list(talk.ask(text))
    prompt = policy.chat.encode_prompt(talk.messages[:3])
    (whole,) = sample(policy, [prompt], max_new_tokens=12, temperature=1.0, group_size=1, seed=derive(1, "chat", 2))
    assert talk.messages[3]["content"] == policy.chat.decode(whole.ids)


def byte_level() -> Chat:
    """A vocabulary of single bytes: every character outside ASCII takes several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<pad>", "<end>", "<user>", "<bot>"])
    return Chat(tokenizer, marker_template(WORLD_MARKERS))


@pytest.mark.parametrize("text", ["Grüße, 世界 👩‍🚀!", "plain", ""])
def test_pieces_join_to_the_whole_and_never_show_half_a_character(text: str) -> None:
    chat, ids = byte_level(), list[int]()
    pieces = list(_pieces(chat, iter(chat.encode_completion(text)), ids))
    assert "".join(pieces) == text == chat.decode(ids)
    assert len(pieces) == len(text)  # a piece a character, as soon as its last byte is there


def test_words_join_as_they_are_written() -> None:
    """The decoder of the embedded world takes blanks away before marks, and writes `do not` together."""
    chat = Chat.from_words(["i", "do", "not", "know", ".", "'ve"])
    ids = chat.encode_completion("i do not know .")
    assert "".join(_pieces(chat, iter(ids), [])) == chat.decode(ids)


def test_an_answer_cut_in_a_character_shows_what_there_is() -> None:
    chat = byte_level()
    ids = chat.encode_text("aé")[:-1]
    assert "".join(_pieces(chat, iter(ids), [])) == chat.decode(ids) == "a\ufffd"


def test_the_history_is_part_of_the_prompt(llama: Policy) -> None:
    talk = Talk(llama, temperature=0.0, max_new_tokens=8)
    first = "".join(talk.ask("w1 w2"))
    second = "".join(talk.ask("w3"))
    history = [
        {"role": "user", "content": "w1 w2"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "w3"},
    ]
    assert talk.messages == [*history, {"role": "assistant", "content": second}]
    prompt = llama.chat.encode_prompt(history)
    (expected,) = sample(llama, [prompt], max_new_tokens=8, temperature=0.0, group_size=1, seed=0)
    assert second == llama.chat.decode(expected.ids)


def test_a_seed_says_the_same_again_and_questions_draw_anew(llama: Policy) -> None:
    talks = [Talk(llama, temperature=1.0, max_new_tokens=12, seed=seed) for seed in (0, 0, 1)]
    answers = [["".join(talk.ask("w1")), "".join(talk.ask("w1"))] for talk in talks]
    assert answers[0] == answers[1] != answers[2]
    talks[0].reset()
    assert "".join(talks[0].ask("w1")) == answers[0][0]
    prompt = llama.chat.encode_prompt([{"role": "user", "content": "w1"}])
    ids = stream(llama, prompt, max_new_tokens=12, temperature=1.0, seed=derive(0, "chat", 1))
    assert llama.chat.decode(list(ids)) == answers[0][0]


def test_what_no_longer_fits_is_left_out_from_the_front() -> None:
    chat = Chat.from_words(["a", "b"])
    small = new_policy(chat, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_tokens=32)
    talk = Talk(small, temperature=0.0, max_new_tokens=8)
    for _ in range(4):
        list(talk.ask("a b a b a b"))
        assert sum(len(chat.encode_text(message["content"])) for message in talk.messages[talk.forgotten :]) <= 32
    assert talk.forgotten >= 2
    assert len(talk.messages) == 8  # what was said stays known
    with pytest.raises(ValueError, match=r"the question makes 33 tokens; the model has room for 24"):
        next(talk.ask("a " * 30))
    assert len(talk.messages) == 8


def test_whoever_stops_listening_keeps_what_was_said(llama: Policy) -> None:
    talk = Talk(llama, temperature=1.0, max_new_tokens=30, seed=3)
    answer = talk.ask("w1")
    heard = next(answer)
    answer.close()
    assert talk.messages[-1] == {"role": "assistant", "content": heard}


def test_a_role_that_the_template_lacks_is_said_so(llama: Policy) -> None:
    talk = Talk(llama, system="be brief")
    with pytest.raises(ValueError, match="system"):
        next(talk.ask("w1"))
    assert talk.messages == []
