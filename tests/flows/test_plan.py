"""`preflow plan` through the command, and a run that is refused before its first stage, or begins anyway."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from flows import profiles
from flows.cli import app
from flows.plan import card, check, measured
from flows.plan import sizes as plan_sizes
from flows.plan.card import GIB, Card
from flows.request import Report
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models import adapt_policy, blocks, save_policy
from rlhf.sizes import How, Sizes
from tasks.config import ConfigError
from tasks.graph import load_graph
from tests.flows.toy import REPO, git, make_toy
from tests.rlhf.conftest import tiny_llama
from tests.rlhf.tiny_models import ARCHITECTURES


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The product's own settings and graph, in a repository without any data."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml", "profiles"):
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, root / name)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    (root / ".dvc").mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("PREFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return root


def planned(*options: str, code: int = 0) -> dict[str, Any]:
    ended = CliRunner().invoke(app, ["plan", "--json", *options], catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def by_stage(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["stage"]: line for line in found["stages"]}


def test_every_stage_with_a_model_has_a_line(project: Path) -> None:
    found = planned()
    assert list(by_stage(found)) == [
        "base", "sft", "annotate", "reward_model", "dpo", "sample", "rejection_sampling", "rl", "evaluate"
    ]  # fmt: skip
    assert found["fits"] and found["assumed"] == ["corpus", "demonstrations", "preferences", "prompts"]
    assert all(sum(line["terms"].values()) < line["peak"] < GIB for line in found["stages"])


@pytest.mark.parametrize("profile", sorted(path.stem for path in (REPO / "profiles").iterdir()))
def test_no_stage_of_any_profile_has_less_than_its_model(project: Path, profile: str) -> None:
    options = ("--shape", "8B", "--gpu", "9000GB", "--set", "training.dtype=bfloat16")
    lines = by_stage(planned("--profile", profile, *options))
    quantised = planned("--profile", profile, *options)["how"]["method"] == "qlora"
    least = (0.516 if quantised else 2) * 8.03e9
    assert all(line["terms"]["weights"] >= least for line in lines.values() if line["terms"])


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_stage_that_samples_has_the_base_in_memory(project: Path, method: str) -> None:
    """8.03e9 weights of 2 bytes; in 4 bits those of the blocks, 6.98e9, at 0.516."""
    options = (
        "--shape",
        "8B",
        "--gpu",
        "9000GB",
        "--set",
        f"training.method={method}",
        "--set",
        "training.dtype=bfloat16",
    )
    lines = by_stage(planned(*options))
    base = 0.516 * 6.98e9 + 2 * 1.05e9 if method == "qlora" else 2 * 8.03e9
    for stage in ("annotate", "sample", "evaluate"):
        assert lines[stage]["terms"]["weights"] == pytest.approx(base, rel=0.04), stage


def test_a_server_that_samples_holds_the_keys_and_values(project: Path) -> None:
    settings = ("rl.algorithm=grpo", "algorithms.grpo.prompts_per_update=128", "generation.max_new_tokens=900")
    settings += ("training.method=lora", "rl.max_batch_tokens=1024")
    options = ["--shape", "1.5B", "--gpu", "900GB", *(word for one in settings for word in ("--set", one))]
    ours, served = (
        by_stage(planned(*options, "--set", f"rl.sampler={sampler}"))["rl"]["peak"] for sampler in ("ours", "server")
    )
    assert served < ours


@pytest.mark.parametrize(("shape", "billions"), [("0.5B", 0.494), ("1.5B", 1.544), ("8B", 8.03), ("70B", 70.55)])
def test_named_shapes_have_the_weights_that_their_makers_say(shape: str, billions: float) -> None:
    assert plan_sizes.NAMED[shape].parameters / 1e9 == pytest.approx(billions, rel=1e-3)


BIG = ("--shape", "8B", "--set", "training.dtype=bfloat16")


def test_what_does_not_fit_ends_with_1_and_the_change_that_is_named_makes_it_fit(project: Path) -> None:
    lines = by_stage(planned(*BIG, "--gpu", "80GB", code=1))
    sft = lines["sft"]
    assert not sft["fits"]
    assert sft["peak"] - 0.9 * 80 * GIB == pytest.approx(sft["over"])
    setting = sft["change"].split(" (")[0]
    assert by_stage(planned(*BIG, "--set", setting, "--gpu", "80GB", code=1))["sft"]["fits"]


def test_the_cheapest_change_comes_first(project: Path) -> None:
    """A little too large: smaller passes do, and no other change is named."""
    options = ("--shape", "0.5B", "--set", "sft.max_batch_tokens=65536", "--set", "sft.batch_size=4096")
    peak = by_stage(planned(*options, "--gpu", "900GB"))["sft"]["peak"]
    change = by_stage(planned(*options, "--gpu", f"{peak / GIB:.0f}GB", code=1))["sft"]["change"]
    assert change.startswith("sft.max_batch_tokens=32768 ")


def test_processes_divide_the_blocks_of_what_is_trained(project: Path) -> None:
    one, eight = (by_stage(planned(*BIG, "--gpu", "900GB", "--n", n))["sft"]["terms"] for n in ("1", "8"))
    outside = 2 * 128256 * 4096 + 4096  # embedding, LM head and the last norm of the 8B
    blocks = plan_sizes.NAMED["8B"].parameters - outside
    assert one["moments"] == 8 * (blocks + outside)
    assert eight["moments"] == 8 * (blocks / 8 + outside)


def test_a_base_in_4_bits_is_whole_in_each_process(project: Path) -> None:
    options = (*BIG, "--set", "training.method=qlora", "--gpu", "900GB")
    one, eight = (by_stage(planned(*options, "--n", n))["sft"]["peak"] for n in ("1", "8"))
    assert one == eight


def test_adapters_leave_no_second_model(project: Path) -> None:
    full, lora = (
        by_stage(planned("--shape", "8B", "--set", f"training.method={method}", "--gpu", "900GB"))["rl"]["terms"]
        for method in ("full", "lora")
    )
    assert lora["other models"] < 0.02 * full["other models"]


def test_lengths_are_those_of_the_data(project: Path) -> None:
    """Rows of 3 and 8 words, with 4 tokens that mark turns."""
    rows = [
        {"messages": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": " ".join("d" * 8)}]}
    ] * 50
    path = project / "data/03_validated/demonstrations/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = planned()
    assert "demonstrations" not in found["assumed"]
    assert by_stage(found)["sft"]["tokens"] == 50 * 2 * (3 + 4 + 8)  # two epochs


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_called_by_its_parts_is_known_from_config(name: str, tmp_path: Path) -> None:
    ARCHITECTURES[name](tmp_path)
    assert plan_sizes.of_folder(tmp_path).by_parts == blocks.able(adapt_policy(tmp_path, 0).model, 1)


def test_the_size_of_a_gpu_is_a_size(project: Path) -> None:
    assert card.parse("24GB") == card.parse("24") == card.parse("24 GiB") == 24 * GIB
    for text in ("", "many", "0GB", "-3GB"):
        with pytest.raises(ConfigError, match="expected the size"):
            card.parse(text)


def test_a_checkpoint_that_is_not_here(project: Path) -> None:
    with pytest.raises(ConfigError, match="put the checkpoint into data/inbox/checkpoint"):
        CliRunner().invoke(app, ["plan", "--set", "base.source=checkpoint"], catch_exceptions=False)


def test_sizes_are_read_from_weights_where_config_leaves_them_out(tmp_path: Path) -> None:
    """transformers writes what differs from the architecture's defaults, and nothing else."""
    policy = tiny_llama(Chat.from_words(["one", "two", "three"]))
    save_policy(policy, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": config["num_attention_heads"]}))
    sizes = plan_sizes.of_folder(tmp_path)
    told = policy.model.config
    assert (sizes.hidden, sizes.layers, sizes.vocab) == (told.hidden_size, told.num_hidden_layers, told.vocab_size)
    assert (sizes.kv_heads, sizes.intermediate) == (told.num_key_value_heads, told.intermediate_size)
    assert sizes.parameters == sum(weight.numel() for weight in policy.model.parameters())


def test_weights_in_several_files_and_a_head_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_attention_heads": 2}))
    block = "model.layers.0."
    save_file(
        {
            "model.embed_tokens.weight": torch.zeros(20, 8),
            f"{block}self_attn.q_proj.weight": torch.zeros(8, 8),
            f"{block}self_attn.k_proj.weight": torch.zeros(4, 8),
        },
        tmp_path / "model-00001-of-00002.safetensors",
    )
    save_file(
        {f"{block}mlp.up_proj.weight": torch.zeros(12, 8), "lm_head.weight": torch.zeros(20, 8)},
        tmp_path / "model-00002-of-00002.safetensors",
    )
    sizes = plan_sizes.of_folder(tmp_path)
    assert (sizes.vocab, sizes.layers, sizes.kv_heads, sizes.intermediate, sizes.tied) == (20, 1, 1, 12, False)
    assert sizes.parameters == 20 * 8 * 2 + 64 + 32 + 96


def test_no_model_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="no sizes of a causal language model"):
        plan_sizes.of_folder(tmp_path)


def test_what_stages_took_corrects_the_next_plan(project: Path) -> None:
    before = by_stage(planned("--gpu", "24GB"))
    name = measured.key("sft", Sizes(300, 128, 2, 4, 4, 32, 384, tied=True), How(cuda=True))
    measured.keep(project, [(name, (2.0 * GIB, 3.0 * GIB))])
    after = by_stage(planned("--gpu", "24GB"))
    assert after["sft"]["peak"] - GIB == pytest.approx(1.5 * (before["sft"]["peak"] - GIB))  # not the context's
    assert after["dpo"]["peak"] == before["dpo"]["peak"]
    assert by_stage(planned("--gpu", "24GB", "--shape", "8B", code=1))["sft"]["factor"] == 1.0  # of another size
    for _ in range(3):
        measured.keep(project, [(name, (2.0 * GIB, 2.4 * GIB))])
    assert by_stage(planned("--gpu", "24GB"))["sft"]["factor"] == pytest.approx(1.2)  # the median
    for _ in range(5):
        measured.keep(project, [(name, (2.0 * GIB, 0.1 * GIB))])  # beyond belief
    assert by_stage(planned("--gpu", "24GB"))["sft"]["factor"] == 1.0


def test_a_torn_record_corrects_nothing(project: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "plan.json").write_text('{"sft, gpu')
    assert by_stage(planned())["sft"]["factor"] == 1.0


@pytest.mark.parametrize(
    ("settings", "whose"),
    [
        ((), "those of the embedded world"),
        (("--set", "collect.source=inbox"), "what the data gate lets through at most"),
    ],
)
def test_what_is_assumed_is_said(project: Path, settings: tuple[str, ...], whose: str) -> None:
    told = CliRunner().invoke(app, ["plan", "--shape", "8B", "--gpu", "80GB", *settings], catch_exceptions=False).output
    assert f"not here yet: lengths of corpus, demonstrations, preferences, prompts ({whose})\n" in told


@pytest.mark.parametrize(("stage", "further"), [("sft", ""), ("rl", ", those of further models too")])
def test_what_is_beyond_all_memory_is_said_to_be_of_further_models_where_there_are_any(
    project: Path, monkeypatch: pytest.MonkeyPatch, stage: str, further: str
) -> None:
    monkeypatch.setattr(check, "card_of", lambda *_: Card("a toy", 1e6, gpu=False))
    site = check.Site(project, project, load_graph(project), lambda: profiles.whole(profiles.resolve(project)))
    with pytest.raises(PreflowError, match=f"{stage} takes .* for weights, gradients and moments alone{further}, and"):
        check.refuse_hopeless(site, [stage], print)


@pytest.fixture
def planned_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A toy project whose stage `rl` is planned as the product's, on a machine of so many bytes."""

    def made(size: float, **base: int) -> Path:
        root = make_toy(tmp_path / "toy")
        values = profiles.whole(profiles.resolve(REPO))
        values["base"] |= base
        monkeypatch.setattr(profiles, "whole", lambda _: values)
        module = ("rl", "rl")
        for place in ("flows.plan.plan", "flows.plan.check", "flows.plan.stages"):
            monkeypatch.setattr(f"{place}.module_of", lambda stage: module if stage.name == "rl" else None)
        monkeypatch.setattr(check, "card_of", lambda *_: Card("a toy", size, gpu=False))
        return root

    return made


def test_a_run_that_cannot_fit_does_not_begin(run: Callable[..., Report], planned_toy: Callable[..., Path]) -> None:
    root = planned_toy(1e6)
    with pytest.raises(PreflowError, match=r"rl takes .* for weights, gradients and moments alone.*--no-plan"):
        run(root)
    assert not (root / "data" / "collect").exists()
    assert run(root, planned=False).exit_code == 0


@pytest.mark.faults(
    10, injected="a run with a stage of which one checkpoint is larger than all that is free",
    happens="refused before its first stage, with what is needed and free",
)  # fmt: skip
def test_a_run_whose_checkpoint_no_disk_here_holds_does_not_begin(
    run: Callable[..., Report], planned_toy: Callable[..., Path]
) -> None:
    root = planned_toy(1e18, hidden_size=2**20, intermediate_size=2**21)
    with pytest.raises(PreflowError, match=r"rl takes [\d.]+ GiB of disk for one checkpoint alone, and .* free"):
        run(root)
    assert not (root / "data" / "collect").exists()


def test_a_run_that_may_be_tight_begins_with_a_line(
    run: Callable[..., Report], planned_toy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights fit; whether its rows do, nobody knows before they are there."""
    assert run(planned_toy(0.3 * GIB)).exit_code == 0
    assert "rl may take" in capsys.readouterr().out


def test_trouble_in_planning_ends_no_run(
    run: Callable[..., Report], planned_toy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(check, "plan", trouble)
    assert run(planned_toy(64.0 * GIB)).exit_code == 0


def test_what_git_keeps_in_the_place_of_weights_has_no_shapes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"hidden_size": 8, "vocab_size": 9, "num_hidden_layers": 1, "num_attention_heads": 2})
    )
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert plan_sizes.of_folder(tmp_path).vocab == 9


@pytest.mark.parametrize("line", ["", "{", "[1]", '{"messages": null}', '{"messages": [{"role": "user"}]}'])
def test_rows_that_are_none_say_nothing(project: Path, line: str) -> None:
    path = project / "data/03_validated/demonstrations/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert "demonstrations" in planned()["assumed"]


def test_a_build_without_cuda_has_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the driver says; nor has one that is told to see none."""
    program = tmp_path / "nvidia-smi"
    cards = 'case "$*" in *--id=1*) echo 81920;; *) echo 2048; echo 81920;; esac'
    program.write_text(f"#!/bin/sh\n{cards}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(card, "_torch_knows_cuda", lambda: False)
    assert not card.card_of("", 1).gpu
    monkeypatch.setattr(card, "_torch_knows_cuda", lambda: True)
    assert card.card_of("", 1).size == 2 * GIB
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert card.card_of("", 1).size == 80 * GIB


def test_a_run_that_fits_remembers_what_it_took(
    run: Callable[..., Report], planned_toy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = planned_toy(64.0 * GIB)
    monkeypatch.setattr("flows.closing.costs_of", lambda *_: {"rl": {"peak_memory_gib": 0.75}})
    assert run(root).exit_code == 0
    ((kept,),) = measured.kept(root).values()
    assert kept["measured"] == 0.75 * GIB
    assert 0.4 * GIB < kept["predicted"] < GIB
