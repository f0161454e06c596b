"""Templates read from models of every family: same ids as the model's own Jinja, and as ours, for ordinary text."""

from itertools import pairwise
from pathlib import Path

import pytest

from rlhf.chat import Chat, adapt_chat
from rlhf.errors import PreflowError
from tests.rlhf import tiny_templates as templates
from tests.rlhf.families import OWN, PRETRAINED, family, save_family
from tests.rlhf.tiny_models import CHATML, GPT2, QWEN3, Vocabulary, byte_level, save_tokenizer

SYSTEM = {"role": "system", "content": "Be brief, please."}
FIXED = {"date_string": "26 Jul 2024", "enable_thinking": False}
"""What the templates here ask for: a day that does not move, and no thoughts."""


def talk(*contents: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)]


TALKS = [
    talk("Hello, what is 2+2?"),
    talk("Hi.", "Fine, thanks\nand you?", "What\n\nis it?"),
    talk("Hi.", "x", "it's {y} | <z>", "Once upon a time, there", "naïve 你好 \U0001f600"),
]
ANSWER = talk("", "Once upon a time, there was.")[1]


def talks(chat: Chat) -> list[list[dict[str, str]]]:
    return TALKS + ([[SYSTEM, *one] for one in TALKS] if "system" in chat.roles else [])


@pytest.mark.parametrize("name", OWN)
def test_the_ids_are_those_of_the_models_own_template(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_family(tmp_path, name)
    theirs, chat = AutoTokenizer.from_pretrained(tmp_path), family(name)
    for messages in talks(chat):
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **FIXED)
        assert chat.encode_prompt(messages) == ids


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_template_that_is_saved_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat = family(name)
    chat.save(tmp_path)
    tokenizer, loaded = AutoTokenizer.from_pretrained(tmp_path), Chat.load(tmp_path)
    assert loaded.template == chat.template
    for messages in talks(chat) if not name.startswith("continue") else TALKS[:1]:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert loaded.encode_prompt(messages) == chat.encode_prompt(messages) == prompt
        if name.startswith("continue"):  # the answer's first word may melt into the prompt's last: no one id is right
            continue
        whole = [*messages, ANSWER]
        assert chat.encode_conversation(whole)[0] == tokenizer.apply_chat_template(whole, return_dict=False)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (chat.pad_id, chat.stop_id)
    assert tokenizer.bos_token_id == chat.bos_id


@pytest.mark.parametrize("name", PRETRAINED)
def test_prompt_and_completion_make_the_conversation_and_its_mask(name: str) -> None:
    chat = family(name)
    for messages in talks(chat):
        ids, mask = chat.encode_conversation([*messages, ANSWER])
        prompt, completion = chat.encode_prompt(messages), chat.encode_completion(ANSWER["content"])
        assert ids == prompt + completion
        assert mask == [False] * len(prompt) + [True] * len(completion)
        assert completion.count(chat.stop_id) == 1
        assert chat.pad_id not in ids


@pytest.mark.parametrize("name", PRETRAINED)
def test_all_answers_are_trained_up_to_their_stop(name: str) -> None:
    """What is trained reads back as the answers and nothing of the turns between them."""
    chat = family(name)
    ids, mask = chat.encode_conversation([*TALKS[1], ANSWER], "all")
    assert ids == chat.encode_conversation([*TALKS[1], ANSWER])[0]
    trained = [token_id for token_id, one in zip(ids, mask, strict=True) if one]
    assert trained.count(chat.stop_id) == 2
    middle = trained.index(chat.stop_id) + 1
    assert chat.decode(trained[:middle]).strip() == TALKS[1][1]["content"]
    assert trained[middle:] == chat.encode_completion(ANSWER["content"])
    starts = [index for index, (before, after) in enumerate(pairwise(mask)) if after and not before]
    assert len(starts) == 2


@pytest.mark.parametrize("name", PRETRAINED)
@pytest.mark.parametrize(
    "text", ["Hello", " one blank", "  two ", "\n\nlines\n", "", "\t", "naïve 你好 \U0001f600\u200b"]
)
def test_what_is_said_reads_back(name: str, text: str) -> None:
    chat = family(name)
    assert chat.decode(chat.encode_completion(text)) == text


def test_what_was_read_of_each_family() -> None:
    """By hand, from the form of the templates."""
    assert family("qwen2").template.gaps["start>user"] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    )
    assert family("qwen2").bos_id is None
    assert family("qwen3").template.gaps["user>reply"] == ("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert family("qwen3").template.gaps["user>assistant"] == "<|im_end|>\n<|im_start|>assistant\n"
    assert family("llama31").template.gaps["start>user"] == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
    )
    assert family("llama3").template.trims == ["assistant", "system", "user"]
    assert family("gemma3").template.gaps["system>user"] == "\n\n"
    assert family("gemma3").template.trims == ["assistant", "user"]
    assert family("gemma").roles == {"user", "assistant"}  # it refuses a system prompt
    assert family("llama2").template.lead == " "
    stops = {name: family(name).template.stop for name in ("qwen3", "llama3", "gemma", "zephyr", "continue")}
    assert stops == {
        "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "zephyr": "</s>",
        "continue": "<|endoftext|>",
    }  # fmt: skip


def test_a_trimmed_turn_is_written_without_the_space_around_it() -> None:
    chat = family("llama3")
    assert chat.encode_prompt(talk(" Hi. \n")) == chat.encode_prompt(talk("Hi."))
    assert chat.decode(chat.encode_completion(" Hi. \n")) == " Hi. \n"  # what is sampled is never changed


def test_a_thought_is_a_control_token_where_the_template_writes_it(tmp_path: Path) -> None:
    """The tokenizer does not call it special, so that text of a user would become it."""
    chat = family("qwen3")
    think = chat.tokenizer.token_to_id("<think>")
    assert think in chat.control_ids
    assert think not in chat.encode_text("<think> hello")
    save_tokenizer(tmp_path, byte_level(QWEN3), QWEN3)
    assert think not in adapt_chat(tmp_path, "markers").control_ids


def test_turns_in_an_order_that_the_template_does_not_write() -> None:
    chat = family("gemma")
    assert not chat.knows([SYSTEM, *TALKS[0]])
    assert not chat.knows([*TALKS[0], *TALKS[0]])
    assert chat.knows(TALKS[1]) and chat.knows([*TALKS[1], ANSWER])
    with pytest.raises(ValueError, match=r"role 'system' is not in this template, which has \['assistant', 'user'\]"):
        chat.encode_prompt([SYSTEM, *TALKS[0]])
    with pytest.raises(ValueError, match="a turn of 'user' after 'user'"):
        chat.encode_prompt([*TALKS[0], *TALKS[0]])


def test_a_tokenizer_that_names_several_templates_means_the_default(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": templates.CHATML}]
    words = Vocabulary(CHATML, None, "<|im_end|>", template=named)  # type: ignore[arg-type]
    save_tokenizer(tmp_path, byte_level(words), words)
    assert adapt_chat(tmp_path).template.gaps == family("chatml").template.gaps
    (tmp_path / "chat_template.jinja").write_text(templates.QWEN2)
    assert adapt_chat(tmp_path).template.gaps == family("qwen2").template.gaps


def test_the_stop_token_that_is_asked_for(tmp_path: Path) -> None:
    save_family(tmp_path, "continue_pieces")
    chat = adapt_chat(tmp_path, "continue", "<s>")
    assert chat.stop_id == chat.bos_id == 1
    assert chat.encode_prompt(talk("Hi")) == [1, *chat.encode_prompt(talk("Hi"))[1:]]
    with pytest.raises(PreflowError, match=r"base.stop_token='<end>' is no added token .* which has <unk>, <s>, </s>"):
        adapt_chat(tmp_path, "continue", "<end>")


def test_a_stop_where_neither_template_nor_tokenizer_has_one(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, byte_level(GPT2), GPT2)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(PreflowError, match=r"no eos token: set base\.stop_token"):
        adapt_chat(tmp_path, "continue")
    assert adapt_chat(tmp_path).bos_id is None  # markers need neither


COUNTING = "{% for m in messages %}<|im_start|>{{ loop.index }}{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
READING = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}"
LONG = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ '!' if m.content | length > 20 }}<|im_end|>\n{% endfor %}"  # fmt: skip  # noqa: E501
NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"  # fmt: skip  # noqa: E501
HOSTILE = {
    "loops": (NESTED, "stopped by its limits of time and memory"),
    "writes": ("{% for a in range(99999) %}{{ 'spam ' * 99 }}{% endfor %}", "more than 100000 characters"),
    "memory": ("{{ 'a' * 10 ** 12 }}", "MemoryError"),
    "attributes": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "SecurityError|UndefinedError"),
    "globals": ("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "SecurityError|UndefinedError"),
    "changes": ("{{ messages.append(1) }}", "SecurityError"),
    "file": ("{% include '/etc/passwd' %}", "no loader"),
    "syntax": ("{% for %}", "line 1"),
    "counts": (COUNTING, "it writes"),
    "reads": (READING, "not there once"),
    "long": (LONG, "a conversation of .* turns is"),
}


@pytest.mark.faults(
    50,
    injected="chat templates with nested loops, 10¹² characters, reads of files and of attributes",
    happens="refused with the reason, under limits of time and memory",
)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_is_hostile_or_more_than_data_is_refused(name: str, tmp_path: Path) -> None:
    jinja, reason = HOSTILE[name]
    words = Vocabulary(CHATML, None, "<|im_end|>", template=jinja)
    save_tokenizer(tmp_path, byte_level(words), words)
    with pytest.raises(PreflowError, match=rf"(?s)chat template of .* cannot be used \(.*({reason}).*base.template="):
        adapt_chat(tmp_path)
    assert adapt_chat(tmp_path, "markers").roles == {"system", "user", "assistant"}
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()
