"""Names on the hub: what they mean, which files of a repository are taken, and what is said where it cannot be had."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import hub
from flows.environment import OFFLINE
from flows.hub import Wanted, model_files, parse, split_files
from rlhf.errors import DependencyDown, PreflowError
from tests.flows.stub_hub import COMMIT, serving


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a/b", Wanted("a/b")),
        ("hub:gpt2", Wanted("gpt2")),
        ("gpt2", None),
        ("a/b@0123abc", Wanted("a/b", "0123abc")),
        ("a/b:main/train", Wanted("a/b", split="main/train")),
        ("a/b@refs/convert/parquet:default/test", Wanted("a/b", "refs/convert/parquet", "default/test")),
        ("a/b/c", None),
        ("a b/c", None),
    ],
)
def test_a_name_is_taken_apart(text: str, wanted: Wanted | None) -> None:
    assert parse(text) == wanted


def test_of_a_model_what_loading_needs() -> None:
    about = ["config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "LICENSE", "model.safetensors"]
    other = ["pytorch_model.bin", "model.fp16.safetensors", "README.md", "notes.txt", "onnx/model.onnx", "modeling.py"]
    assert model_files([*about, *other]) == sorted(about)
    assert model_files([*about, *other], code=True) == sorted([*about, "modeling.py"])
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "model.safetensors.index.json"
    assert model_files([*shards, index, "consolidated.safetensors"]) == [*shards, index]
    with pytest.raises(PreflowError, match=r"no weights as safetensors, only pytorch_model\.bin, .*save_pretrained"):
        model_files(["config.json", "pytorch_model.bin"])


def test_a_split_by_the_card() -> None:
    parts = ("train", "test")
    card = {
        "configs": [
            {"config_name": "main", "data_files": [{"split": part, "path": f"main/{part}-*"} for part in parts]},
            {"config_name": "socratic", "data_files": [{"split": "train", "path": ["socratic/train-*"]}]},
        ]
    }
    names = ["README.md", "main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"]
    names += [f"socratic/train-0000{n}-of-00002.parquet" for n in (0, 1)]
    assert split_files(names, "main/train", card) == names[1:2]
    assert split_files(names, "socratic/train", card) == names[3:]
    assert split_files(names, "test", card) == names[2:3]  # only one config has it
    with pytest.raises(PreflowError, match=r"no split `train`, name one.*: main/train, main/test, socratic/train"):
        split_files(names, "train", card)


@pytest.mark.parametrize(
    "card",
    [
        {"configs": [{"data_files": [{"split": "train"}]}]},
        {"configs": [{"data_files": [{"path": "train.csv"}]}]},
        {"configs": [{"data_files": [{"split": "train", "path": None}]}]},
        {"configs": ["main"]},
        {"configs": 3},
    ],
)
def test_a_card_that_does_not_say_which_files_is_no_failure_of_the_network(card: dict[str, Any]) -> None:
    with pytest.raises(PreflowError, match="lists files without split or path: fetch it with `hf download`") as refused:
        split_files(["train.csv"], "train", card)
    assert not isinstance(refused.value, DependencyDown)


def test_what_libraries_print_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"folder": "f", "revision": "r", "files": ["a"], "licence": "mit"})
    for printed, found in ((f"hello\n{hub.MARK}{answer}\nbye {{\n", "f"), ("{}\nbye", "")):
        done = subprocess.CompletedProcess([], 1, stdout=printed)
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        if found:
            assert hub.fetch(Wanted("a/b")).folder == found
        else:
            with pytest.raises(PreflowError, match="fetching a/b from the Hugging Face hub ended with 1"):
                hub.fetch(Wanted("a/b"))


def test_a_split_by_names_alone() -> None:
    names = [f"data/{split}_prefs-00000-of-00001.parquet" for split in ("train", "test")]
    assert split_files(names, "train_prefs", {}) == names[:1]
    folders = [f"{folder}/{split}.jsonl.gz" for folder in ("harmless", "helpful") for split in ("test", "train")]
    assert split_files(folders, "helpful/test", {}) == ["helpful/test.jsonl.gz"]
    converted = ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"]
    assert split_files(converted, "train", {}) == converted[:2]
    assert split_files(converted, "", {}) == converted[:2]  # train, where nothing is said
    assert split_files(["rows.csv", "README.md"], "", {}) == ["rows.csv"]
    with pytest.raises(PreflowError, match="several splits, name one after a colon: helpful/a, helpful/b"):
        split_files(["helpful/a.json", "helpful/b.json"], "", {})
    with pytest.raises(PreflowError, match="none that can be read"):
        split_files(["loader.py", "images.tar"], "train", {})


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: good
    path: part/*.csv
---
# Pairs
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for the hub, with a model and a data set, and an empty cache."""
    root = tmp_path / "hub"
    model, data = root / "models" / "org" / "model", root / "datasets" / "org" / "pairs"
    (data / "part").mkdir(parents=True)
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (data / "README.md").write_text(CARD)
    (data / "part" / "a.csv").write_text("prompt,chosen,rejected\nHi?,yes,no\n")
    (data / "bad.csv").write_text("x\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(OFFLINE, "0")
    with serving(root) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield root


def test_a_model_is_fetched_once_and_then_read_from_the_cache(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hub.fetch(Wanted("org/model", kind="model"))
    assert (found.revision, found.licence) == (COMMIT, "not stated")
    assert found.files == ("config.json", "model.safetensors", "tokenizer.json")
    there = {path.name for path in Path(found.folder).iterdir()}
    assert there == set(found.files)  # neither the pickle nor anything else came
    monkeypatch.setenv(OFFLINE, "1")
    assert hub.fetch(Wanted("org/model", kind="model")) == found
    assert hub.fetch(Wanted("org/model", COMMIT, kind="model")) == found


def test_of_a_data_set_one_split_and_the_licence_of_its_card(served: Path) -> None:
    found = hub.fetch(Wanted("org/pairs", split="good"))
    assert (found.files, found.licence) == (("part/a.csv",), "mit")
    assert (Path(found.folder) / "part" / "a.csv").read_text().startswith("prompt,")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted("org/none"), r"/datasets/org/none is not there, or not for everybody: check the name, or set HF_TOKEN"),
        (Wanted("gated/model", kind="model"), r"/gated/model is gated: accept its terms there, and set HF_TOKEN"),
        (Wanted("org/pairs", "9f"), r"/datasets/org/pairs has no revision 9f"),
        (Wanted("org/pairs", split="bad"), r"/datasets/org/pairs: it has no split `bad`, name one after a colon: good"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(served: Path, wanted: Wanted, message: str) -> None:
    with pytest.raises(PreflowError, match=message) as refused:
        hub.fetch(wanted)
    assert not isinstance(refused.value, DependencyDown) and "\n" not in str(refused.value)


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv(OFFLINE, offline)
    with pytest.raises(DependencyDown, match=r"cannot be fetched .*`hf download org/model --local-dir FOLDER`") as down:
        hub.fetch(Wanted("org/model", kind="model"))
    assert ("HF_HUB_OFFLINE is set" in str(down.value)) is (offline == "1")
    assert "\n" not in str(down.value)


def test_a_token_reaches_nothing_that_is_kept(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a1B2" * 6)
    assert "hf_" not in json.dumps(hub.fetch(Wanted("org/model", kind="model")).__dict__)
