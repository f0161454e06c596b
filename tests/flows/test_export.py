"""An export is read by a process that has never heard of this project: same ids, same greedy answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from flows import export as exporting
from flows import policies
from flows.export import export
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.export import as_one, expectations
from rlhf.models import Policy, adapt_policy, load_policy, merged, new_policy, save_policy, trainable
from rlhf.records import write_json
from rlhf.sampler import sample
from tasks.config.training import Training
from tests.flows.toy import make_toy
from tests.rlhf.test_adapt import coded
from tests.rlhf.tiny_models import ARCHITECTURES, wide_llama

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


def with_adapters(folder: Path, method: Literal["lora", "qlora"] = "lora", dtype: str = "float32") -> Path:
    """A policy of two LoRA stages, the second on fewer layers; its adapters are random, as if trained."""
    save_policy(adapt_policy(folder / "checkpoint", 0), folder / "0")
    for number, targets in ((1, ()), (2, ("q_proj", "v_proj"))):
        training = Training(method=method, rank=4, alpha=8.0, targets=targets, dtype=dtype)  # type: ignore[arg-type]
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


def card_program(out: Path) -> str:
    return (out / "README.md").read_text().partition("```python\n")[2].partition("```")[0]


def run_card(out: Path, more: str) -> None:
    """The program on the card, as a reader would run it beside the folder."""
    words = [sys.executable, "-I", "-c", card_program(out) + more]
    done = subprocess.run(words, cwd=out.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_qlora_is_loaded_in_4_bits_by_the_check_and_by_the_card(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 logits of this model are 0.0156 apart: no answers are the same to 0.001."""
    wide_llama(tmp_path / "checkpoint")
    source = with_adapters(tmp_path, "qlora", dtype)
    done = export(str(source), tmp_path / "out", False, print)
    assert done.checked == 5
    assert f"--quantization bitsandbytes --dtype {dtype} --enable-lora" in done.vllm
    kinds = "[f'{type(part).__module__} {type(part).__name__}' for part in model.modules()]"
    four = f"assert {kinds}.count('bitsandbytes.nn.modules Linear4bit') == 14, {kinds}\n"
    run_card(tmp_path / "out", four)
    monkeypatch.setattr("rlhf.export.as_one", lambda some: {name: one * 0.9 for name, one in as_one(some).items()})
    with pytest.raises(PreflowError, match="does not do what the policy does"):  # for all that may change places
        export(str(source), tmp_path / "bad", False, print)


@pytest.mark.usefixtures("modules")
def test_a_model_with_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ARCHITECTURES["llama"](tmp_path / "checkpoint")
    coded(tmp_path / "checkpoint", tmp_path / "bringing")
    save_policy(adapt_policy(tmp_path / "bringing", 0, trusted=True), tmp_path / "policy")
    monkeypatch.setattr(policies, "stage_out", lambda _: "policy")
    done = export(str(tmp_path / "policy"), tmp_path / "out", False, print)
    assert "--trust-remote-code" in done.vllm
    run_card(tmp_path / "out", 'assert type(model).__name__ == "OwnModel"\n')


def test_a_small_model_is_checked_on_shorter_answers_or_not_exported(tmp_path: Path) -> None:
    """The shortest probe makes bos, user, 2 words, bot = 5 tokens: 8 positions leave 3 for the answer, 5 none."""
    chat = Chat.from_words(["Hello", "!"])
    for positions in (8, 5):
        save_policy(new_policy(chat, 5, max_tokens=positions, init_std=0.3), tmp_path / str(positions))
    told = expectations(load_policy(tmp_path / "8"))
    assert told["tokens"] == 3
    assert told["cases"]
    with pytest.raises(PreflowError, match=r"room for 5 tokens .* makes 5, which leaves none"):
        export(str(tmp_path / "5"), tmp_path / "out", False, print)
    assert not (tmp_path / "out").exists()


def test_a_card_of_a_folder_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outs of a stage may be links out of the checkout; dvc.lock knows them by their path in it."""
    monkeypatch.setattr(exporting, "_check", lambda *_: None)
    root = make_toy(tmp_path / "project")
    (root / "link").symlink_to(world(tmp_path))
    export(str(root / "link"), tmp_path / "out", False, print)
    assert "| weights in DVC | dvc.lock does not name the folder |" in (tmp_path / "out/README.md").read_text()
    (root / "dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  sft:\n    cmd: x\n    outs:\n    - path: link\n      md5: {'a' * 32}.dir\n"
    )
    export(str(root / "link"), tmp_path / "again", False, print)
    assert f"| weights in DVC | `link`, md5 `{'a' * 32}.dir` |" in (tmp_path / "again/README.md").read_text()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("mine")
    with pytest.raises(PreflowError, match="used is there already; name a new folder"):
        export("anything", tmp_path / "used", False, print)
    assert (tmp_path / "used/file").read_text() == "mine"


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PreflowError, match=r"file/deep cannot be written to .*; name another folder"):
        export(str(world(tmp_path)), tmp_path / "file/deep/out", False, print)


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_check", lambda *_: None)
    source = world(tmp_path)
    (tmp_path / "here").mkdir()
    same = (tmp_path / "here").stat().st_ino
    monkeypatch.chdir(tmp_path / "here")
    done = export(str(source), Path("."), False, print)
    assert done.folder == str(tmp_path / "here")
    assert (tmp_path / "here/model.safetensors").is_file()
    assert (tmp_path / "here").stat().st_ino == same  # another one in its place would leave a shell nowhere
    assert not list((tmp_path / "here").glob(".*"))
