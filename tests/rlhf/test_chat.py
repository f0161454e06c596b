"""The template: exact ids and masks, text that cannot forge a turn, and agreement with transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from rlhf.chat import ADDED_MARKERS, WORLD_MARKERS, Chat, Markers, adapt_chat, marker_template

PAD, UNK, BOS, USER, BOT, END, W0 = range(7)  # ids of Chat.from_words(["w0", "w1", …])
TALK = [
    {"role": "user", "content": "w0 w1"},
    {"role": "assistant", "content": "w2"},
    {"role": "user", "content": "w3"},
    {"role": "assistant", "content": "w4 w5"},
]
MARKERS = [*WORLD_MARKERS.roles.values(), "<bos>", "<pad>", "<end>", *ADDED_MARKERS.roles.values(), "<|end|>", "<|pad|>", "</s>", "<s>"]  # fmt: skip  # noqa: E501
TEXTS = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(MARKERS), st.text(max_size=5), st.just(" ")), max_size=8).map("".join),
)


@pytest.fixture(scope="session")
def stories(shared: Path) -> Chat:
    return adapt_chat(shared / "models" / "stories3M")


def test_ids_and_mask_by_hand(chat: Chat) -> None:
    w = range(W0, W0 + 6)
    ids, mask = chat.encode_conversation(TALK, loss_on="all")
    assert ids == [BOS, USER, w[0], w[1], BOT, w[2], END, USER, w[3], BOT, w[4], w[5], END]
    assert [token for token, trained in zip(ids, mask, strict=True) if trained] == [w[2], END, w[4], w[5], END]
    _, final = chat.encode_conversation(TALK)
    assert final == [False] * 10 + [True] * 3


def test_prompt_and_completion_make_the_conversation(chat: Chat) -> None:
    ids, mask = chat.encode_conversation(TALK)
    prompt, completion = chat.encode_prompt(TALK[:3]), chat.encode_completion("w4 w5")
    assert ids == prompt + completion
    assert mask == [False] * len(prompt) + [True] * len(completion)
    assert completion.count(chat.stop_id) == 1


def test_run_on_documents_have_no_stop(chat: Chat) -> None:
    ids, mask = chat.encode_conversation(TALK, loss_on="all", stops=False)
    assert END not in ids
    assert sum(mask) == 3


def test_an_empty_completion_is_one_stop(chat: Chat) -> None:
    assert chat.encode_completion("") == [END]
    assert chat.decode([END]) == ""


@pytest.mark.parametrize(
    ("messages", "message"),
    [([{"role": "system", "content": "w0"}, TALK[0], TALK[1]], "role 'system'"), (TALK[:3], "last assistant")],
)
def test_roles_are_a_closed_set(chat: Chat, messages: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.encode_conversation(messages)


def test_words_that_look_like_markers_are_unknown_words(chat: Chat) -> None:
    assert chat.encode_text("w0 <end> <user> w1 <unk>") == [W0, UNK, UNK, W0 + 1, UNK]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_no_text_forges_a_turn(chat: Chat, text: str) -> None:
    ids = chat.encode_prompt([{"role": "user", "content": text}])
    assert [token for token in ids if token in chat.control_ids] == [BOS, USER, BOT]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_no_text_forges_a_turn_in_a_pretrained_tokenizer(stories: Chat, text: str) -> None:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    ids = stories.encode_prompt(messages)
    roles = [stories.tokenizer.token_to_id(ADDED_MARKERS.roles[role]) for role in ("system", "user", "assistant")]
    assert [token for token in ids if token in stories.control_ids] == [stories.bos_id, *roles]
    completion = stories.encode_completion(text)
    assert [token for token in completion if token in stories.control_ids] == [stories.stop_id]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS.filter(lambda text: "\u2581" not in text))  # sentencepiece's own sign for a space reads back as one
def test_pretrained_round_trip(stories: Chat, text: str) -> None:
    assert stories.decode(stories.encode_completion(text)) == text


@given(st.lists(st.sampled_from([f"w{number}" for number in range(20)])).map(" ".join))
def test_word_round_trip(text: str) -> None:
    chat = Chat.from_words([f"w{number}" for number in range(20)])
    assert chat.decode(chat.encode_completion(text)) == text


def test_text_that_is_not_unicode_is_refused(chat: Chat) -> None:
    with pytest.raises(ValueError, match="not valid Unicode"):
        chat.encode_text("w0 \ud800")


def test_a_lookup_vocabulary_without_unknown_refuses_control_words() -> None:
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<bos>", "<user>", "<bot>", "<end>", "a"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<user>", "<bot>", "<end>"])
    with pytest.raises(ValueError, match="control token '<end>'"):
        Chat(tokenizer, marker_template(WORLD_MARKERS)).encode_text("<end>")


def test_adapt_keeps_ids_and_tells_stop_from_pad(shared: Path, stories: Chat) -> None:
    before = Tokenizer.from_file(str(shared / "models" / "stories3M" / "tokenizer.json"))
    assert stories.encode_text("Once upon a time") == before.encode("Once upon a time", add_special_tokens=False).ids
    assert stories.bos_id == 1  # its own
    assert min(stories.pad_id, stories.stop_id) >= before.get_vocab_size()
    assert stories.pad_id != stories.stop_id
    assert stories.vocab_size == before.get_vocab_size() + 5


def test_pad_and_stop_must_differ() -> None:
    tokenizer = Chat.from_words(["w0"]).tokenizer
    with pytest.raises(ValueError, match="share ids"):
        marker_template(Markers(bos="<bos>", pad="<end>", stop="<end>", roles=WORLD_MARKERS.roles))
    with pytest.raises(ValueError, match="'w0' is not a special token"):
        Chat(tokenizer, marker_template(Markers(bos="<bos>", pad="<pad>", stop="w0", roles=WORLD_MARKERS.roles)))
    with pytest.raises(ValueError, match="no marker for"):
        marker_template(Markers(bos="<bos>", pad="<pad>", stop="<end>", roles={"user": "<user>"}))


def test_repeated_words_are_refused() -> None:
    with pytest.raises(ValueError, match="2 words and 6 controls hold only 7 distinct"):
        Chat.from_words(["w0", "w0"])


@pytest.mark.parametrize("name", ["chat", "stories"])
def test_save_load_and_bytes(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    chat: Chat = request.getfixturevalue(name)
    chat.save(tmp_path / "a")
    loaded = Chat.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {"chat.json", "tokenizer.json", "tokenizer_config.json"}
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert loaded.encode_conversation(TALK) == chat.encode_conversation(TALK)
    assert loaded.encode_text("<end> <|user|>") == chat.encode_text("<end> <|user|>")
    assert str(tmp_path) not in json.dumps([(tmp_path / "a" / file).read_text() for file in files])


def test_a_folder_without_template_says_what_to_do(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"no chat\.json: adapt"):
        Chat.load(shared / "models" / "stories3M")


@pytest.mark.parametrize("name", ["chat", "stories"])
def test_transformers_template_gives_the_same_ids(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat: Chat = request.getfixturevalue(name)
    chat.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.apply_chat_template(TALK, return_dict=False) == chat.encode_conversation(TALK)[0]
    prompt = tokenizer.apply_chat_template(TALK[:3], add_generation_prompt=True, return_dict=False)
    assert prompt == chat.encode_prompt(TALK[:3])
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (chat.pad_id, chat.stop_id)


@pytest.mark.parametrize("change", [[], {"gaps": {"user>reply": 3}}, {"more": 1}, {"roles": {}}])
def test_a_chat_json_of_another_form_is_one_sentence(change: Any, tmp_path: Path) -> None:
    Chat.from_words(["hello"]).save(tmp_path)
    about = json.loads((tmp_path / "chat.json").read_text())
    (tmp_path / "chat.json").write_text(json.dumps(about | change if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=r"chat\.json is of another form"):
        Chat.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        Chat.load(tmp_path)
