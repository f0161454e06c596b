"""An export is read by a process that has never heard of this project: same ids, same greedy answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import export as exporting
from flows.export import export
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.export import as_one
from rlhf.models import Policy, adapt_policy, load_policy, merged, new_policy, save_policy, trainable
from rlhf.records import write_json
from rlhf.sampler import sample
from tasks.config.training import Training
from tests.rlhf.tiny_models import ARCHITECTURES

# Written without a look at rlhf/export_check.py: another reader, for whom the card is all there is.
STRANGER = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
told = {}
for folder in map(Path, sys.argv[2:]):
    adapted = (folder / "adapter").is_dir()
    where = folder / "base" if adapted else folder
    tokenizer, model = AutoTokenizer.from_pretrained(where), AutoModelForCausalLM.from_pretrained(where)
    if adapted:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, folder / "adapter")
    for messages in json.loads(Path(sys.argv[1]).read_text()):
        given = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**given, do_sample=False, max_new_tokens=16)[0].tolist()
        width = given["input_ids"].shape[1]
        told.setdefault(folder.name, []).append([said[:width], said[width:]])
assert not {name.split(".")[0] for name in sys.modules} & {"rlhf", "tasks", "flows"}
print(json.dumps(told))
"""
CONVERSATIONS = [
    [{"role": "user", "content": "say hello to my friend, please."}],
    [
        {"role": "user", "content": "what is this?"},
        {"role": "assistant", "content": "a dog."},
        {"role": "user", "content": "Where does it live?\nAnd who feeds it?"},
    ],
]


def with_adapters(folder: Path) -> Path:
    """A policy of two LoRA stages, the second on fewer layers; its adapters are random, as if trained."""
    save_policy(adapt_policy(folder / "checkpoint", 0), folder / "0")
    for number, targets in ((1, ()), (2, ("q_proj", "v_proj"))):
        training = Training(method="lora", rank=4, alpha=8.0, targets=targets)
        policy = trainable(folder / str(number - 1), training, seed=number, label=f"stage{number}")
        drawing = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for tensor in policy.model.adapters[-1].tensors().values():
                tensor += 0.1 * torch.randn(tensor.shape, generator=drawing)
        save_policy(policy, folder / str(number))
    return folder / "2"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    ARCHITECTURES["llama"](folder / "checkpoint")
    return with_adapters(folder)


def expected(policy: Policy) -> list[list[list[int]]]:
    prompts = [policy.chat.encode_prompt(messages) for messages in CONVERSATIONS]
    said = sample(policy, prompts, max_new_tokens=16, temperature=0.0, group_size=1, seed=0)
    return [[ids, one.ids] for ids, one in zip(prompts, said, strict=True)]


def strangers(folders: list[Path], tmp_path: Path) -> Any:
    write_json(tmp_path / "asked.json", CONVERSATIONS)
    (tmp_path / "stranger.py").write_text(STRANGER)
    words = [sys.executable, "-I", str(tmp_path / "stranger.py"), str(tmp_path / "asked.json"), *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def world(folder: Path) -> Path:
    words = ["say", "hello", "to", "my", "friend", ",", "please", ".", "what", "is", "this", "?", "a", "dog", "and"]
    save_policy(new_policy(Chat.from_words(words), 5, init_std=0.3), folder / "world")
    return folder / "world"


def test_a_stranger_reads_world_and_adapters_and_gets_ids_and_answers(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    monkeypatch.setattr(exporting, "_check", lambda *paths: checked.append(paths))  # the stranger below is stricter
    made = {
        "world": export(str(world(tmp_path)), tmp_path / "out/world", False, print),
        "lora": export(str(lora), tmp_path / "out/lora", False, print),
        "merged": export(str(lora), tmp_path / "out/merged", True, print),
    }
    told = strangers([tmp_path / "out" / name for name in made], tmp_path)
    assert told["world"] == expected(load_policy(tmp_path / "world"))
    assert told["lora"] == expected(load_policy(lora))
    assert told["merged"] == expected(merged(load_policy(lora)))
    assert [one.layout for one in made.values()] == ["model", "adapter", "model"]
    out = tmp_path / "out"
    assert made["world"].vllm == f"vllm serve {out}/world --max-model-len 256 --served-model-name world"
    lines = f"--enable-lora --max-lora-rank 8 --lora-modules lora={out}/lora/adapter"
    assert made["lora"].vllm == f"vllm serve {out}/lora/base --max-model-len 128 {lines}"
    stop = load_policy(lora).chat.stop_id
    assert json.loads((out / "lora/base/generation_config.json").read_text())["eos_token_id"] == stop
    card = (out / "lora/README.md").read_text()
    assert "vllm serve lora/base" in card
    assert str(tmp_path) not in card
    assert len(checked) == 3


def test_a_stranger_reads_a_pretrained_model(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_check", lambda *_: None)
    policy = adapt_policy(shared / "models/stories3M", 0)
    save_policy(policy, tmp_path / "policy")
    export(str(tmp_path / "policy"), tmp_path / "stories3M", False, print)
    assert strangers([tmp_path / "stories3M"], tmp_path)["stories3M"] == expected(policy)


def test_adapters_become_one_that_does_the_same(lora: Path) -> None:
    """W x changes by Σ α/r B A x: computed layer by layer, with float64 and no PEFT."""
    policy = load_policy(lora)
    one, adapters = as_one(policy.model.adapters), policy.model.adapters
    layers = {name.rpartition(".lora_")[0] for name in one}
    assert len(layers) == len(one) / 2 == 14  # seven linear layers a block
    for layer in layers:
        a, b = (one[f"{layer}.lora_{half}.weight"].double() for half in "AB")
        assert a.shape[0] == b.shape[1] == 8
        name = layer.removeprefix("base_model.model.")
        wanted = sum(
            (
                adapter.shape.alpha / adapter.shape.rank
                * adapter.weights[f"{name}.lora_B.weight"].double()
                @ adapter.weights[f"{name}.lora_A.weight"].double()
                for adapter in adapters
                if f"{name}.lora_A.weight" in adapter.weights
            ),
            torch.zeros(b.shape[0], a.shape[1], dtype=torch.float64),
        )  # fmt: skip
        assert torch.allclose(b @ a, wanted, atol=1e-6)


def test_what_is_checked_is_what_others_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real check, by the program itself: it passes, and a policy that says something else is found out."""
    source = world(tmp_path)
    done = export(str(source), tmp_path / "good", False, print)
    assert done.checked == 5
    assert (tmp_path / "good/README.md").read_text().startswith("---\nlibrary_name: transformers\n")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    after = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    assert before.items() <= after.items()

    def other(policy: Policy, folder: Path) -> Policy:
        with torch.no_grad():
            policy.model.get_input_embeddings().weight[5] += 3.0  # the stop token's row
        save_policy(policy, folder)
        return load_policy(source)

    monkeypatch.setattr("rlhf.export.write_model", other)
    with pytest.raises(PreflowError, match="does not do what the policy does, so nothing is left of it: conversation"):
        export(str(source), tmp_path / "bad", False, print)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "world"]


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("mine")
    with pytest.raises(PreflowError, match="used is there already; name a new folder"):
        export("anything", tmp_path / "used", False, print)
    assert (tmp_path / "used/file").read_text() == "mine"


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PreflowError, match=r"file/deep cannot be made .*; name another folder"):
        export(str(world(tmp_path)), tmp_path / "file/deep/out", False, print)


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_check", lambda *_: None)
    source = world(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = export(str(source), Path("."), False, print)
    assert done.folder == str(tmp_path / "here")
    assert (tmp_path / "here/model.safetensors").is_file()
