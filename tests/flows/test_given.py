"""A model and data that the user names: found and held to their bytes, or refused in one sentence."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import profiles
from flows.compare.graph import read, signatures
from flows.compare.grid import Asked, grid, outside
from rlhf.errors import PreflowError
from tasks.graph import graph_of
from tests.flows.own_data import OWN, REPO, brought, checkout, make_model, settled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path)


def test_a_model_and_a_file_come_into_the_inbox(root: Path) -> None:
    (root.parent / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (root.parent / "model" / "optimizer.pt").write_bytes(b"not needed")
    resolved = settled(root, *OWN)
    listed = brought(root, resolved)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (root / "data/inbox/checkpoint").iterdir()} == names
    assert (root / "data/inbox/given/preferences/pairs.csv").read_text().startswith("question,")
    assert listed["model"]["licence"] == "apache-2.0"
    assert listed["pairs"]["origin"] == "local pairs.csv"  # no path of this machine: it goes into outputs
    assert (resolved.values["base"]["source"], resolved.values["collect"]["source"]) == ("checkpoint", "inbox")
    assert resolved.own_sources
    assert YAML(typ="safe").load(resolved.text) == resolved.values


def test_a_run_without_a_profile_gets_one_and_says_so_once(root: Path) -> None:
    said: list[str] = []
    resolved = settled(root, *OWN, "sft.epochs=7", say=said.append)
    assert (resolved.under, resolved.registry) == ("pretrained", "policy-pretrained")
    assert resolved.values["annotate"]["train_on"] == "offline"
    assert resolved.values["sft"]["epochs"] == 7  # settings lie over it
    assert len(said) == 1 and "profile `pretrained` lies under" in said[0]
    assert profiles.resolve(root, settings=["seed=1"]).under == ""
    (root / "profiles" / "mine.yaml").write_text("seed: 5\n")
    named = settled(root, *OWN, profile="mine", say=said.append)
    assert (named.under, named.registry, named.values["annotate"]["train_on"]) == ("", "policy-mine", "on_policy")
    assert named.values["base"]["source"] == "checkpoint"
    assert len(said) == 1


def test_a_profile_may_name_a_model_and_data(root: Path) -> None:
    given = "collect:\n  preferences: ../pairs.csv\nbase:\n  model: ../model\n"
    (root / "profiles" / "mine.yaml").write_text(f"extends: pretrained\n{given}")
    resolved = settled(root, profile="mine")
    assert resolved.registry == "policy-mine"
    assert {source["target"] for source in resolved.values["sources"]} == {"checkpoint", "given/preferences/pairs.csv"}


def test_a_folder_and_several_files_of_one_name(root: Path) -> None:
    folder = root.parent / "set"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "train.jsonl").write_text("{}\n")
    (folder / "train.jsonl").write_text("{}\n")
    (folder / "read me.md").write_text("no data")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "train-checkpoint.jsonl").write_text("{}\n")
    (root.parent / "other").mkdir()
    (root.parent / "other" / "pairs.csv").write_text("prompt\n")
    resolved = settled(root, OWN[0], "collect.preferences=[../pairs.csv, ../other/pairs.csv, ../set]")
    brought(root, resolved)
    there = root / "data/inbox/given/preferences"
    found = sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file())
    assert found == ["2-pairs.csv", "pairs.csv", "set/a/train.jsonl", "set/train.jsonl"]


def test_what_is_no_longer_named_goes_and_what_others_put_there_stays(root: Path) -> None:
    brought(root, settled(root, *OWN))
    (root.parent / "new.csv").write_text("prompt\n")
    brought(root, settled(root, OWN[0], "collect.preferences=../new.csv"))
    assert [path.name for path in (root / "data/inbox/given/preferences").iterdir()] == ["new.csv"]
    (root / "data/inbox/checkpoint/adapter.safetensors").write_bytes(b"mine")
    with pytest.raises(
        PreflowError, match=r"checkpoint holds files that are not of model \(adapter\.safetensors\): move"
    ):
        brought(root, settled(root, *OWN))


def test_a_run_done_again_wants_the_bytes_it_had(root: Path) -> None:
    first = settled(root, *OWN)
    (root / "params.yaml").write_text(first.text)
    again = settled(root)
    assert again.values["sources"] == first.values["sources"]
    (root.parent / "pairs.csv").write_text("question,better,worse\nHi?,no,yes\n")
    with pytest.raises(PreflowError, match=r"pairs: .* has sha256 \w+, `sources` in params names .*changed since"):
        settled(root)


def test_another_model_takes_the_place_of_that_of_a_profile(root: Path) -> None:
    (root / "profiles" / "polite.yaml").write_bytes((REPO / "profiles" / "polite.yaml").read_bytes())
    resolved = settled(root, OWN[0], profile="polite")
    assert {source["target"] for source in resolved.values["sources"]} == {
        "polite/instruction-data-with-preference.json",
        "checkpoint",
    }
    assert resolved.values["sources"][-1]["name"] == "model"


def test_a_model_without_a_template_is_told_what_happens(root: Path) -> None:
    make_model(root.parent / "plain", template="")
    said: list[str] = []
    settled(root, "base.model=../plain", OWN[1], say=said.append)
    assert "plain brings no chat template: markers for user and assistant are added" in said[-1]
    said.clear()
    settled(root, *OWN, say=said.append)
    assert not any("template" in line for line in said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (OWN[1:], "collect.preferences is data of your own, and the embedded model knows 200 words: name a model too"),
        (("base.model=../nowhere",), "there is no folder .*/nowhere; give one with config.json"),
        (("base.model=nowhere",), "there is no folder .*/checkout/nowhere; .*ORG/NAME, or hub:NAME"),
        (("base.model=..",), "has no config.json, so it is no model"),
        (("base.model=../pickled",), "no weights as safetensors, only pytorch_model.bin, .*save_pretrained writes"),
        (("base.model=../dumb",), "has no tokenizer"),
        (
            (OWN[0], "collect.preferences=../pears.csv"),
            "collect.preferences=../pears.csv: there is no file .*/pears.csv",
        ),
        ((OWN[0], "collect.preferences=pairs.csv"), "there is no file .*relative ones start at .*checkout"),
        ((OWN[0], "collect.preferences=../notes.pdf"), "notes.pdf cannot be read; expected a name ending in .*csv"),
        ((OWN[0], "collect.preferences=../model"), None),
        ((OWN[0], "collect.preferences=../empty"), "holds no file whose name ends in"),
        ((*OWN, "collect.columns.promt=question"), "`promt` is none of our fields; did you mean `prompt`"),
        ((*OWN, "collect.columns.preferences.chosn=x"), "`chosn` is none of our fields; did you mean `chosen`"),
        ((*OWN, "collect.source=world"), "preferences are read only with source: inbox"),
        ((*OWN, "base.source=scratch"), "model is read only with source: checkpoint"),
    ],
)
def test_mistakes_end_in_one_sentence(root: Path, settings: tuple[str, ...], message: str | None) -> None:
    (root.parent / "empty").mkdir()
    (root.parent / "notes.pdf").write_bytes(b"")
    make_model(root.parent / "pickled")
    (root.parent / "pickled" / "model.safetensors").rename(root.parent / "pickled" / "pytorch_model.bin")
    make_model(root.parent / "dumb")
    for file in (root.parent / "dumb").glob("tokenizer*"):
        file.unlink()
    if message is None:
        settled(root, *settings)  # a folder of files that can be read is taken as data; the gate says what they are
        return
    with pytest.raises(PreflowError, match=message) as refused:
        settled(root, *settings)
    assert "\n" not in str(refused.value)


def test_a_broken_configuration_of_a_tokenizer_is_one_sentence(root: Path) -> None:
    (root.parent / "model" / "tokenizer_config.json").write_text("{")
    with pytest.raises(PreflowError, match="holds no JSON object"):
        settled(root, *OWN)


def test_a_comparison_has_the_model_and_data_in_every_cell(root: Path) -> None:
    (root / "dvc.yaml").write_bytes((REPO / "dvc.yaml").read_bytes())
    asked = Asked(algorithms=("dpo",), settings=OWN)
    (cell,) = grid(root, asked)
    assert set(OWN) <= set(cell.settings)
    settled_again = settled(root, *cell.settings)
    look = outside(root, settled_again.values, with_inbox=False)
    again = signatures(graph_of(read(cell.graph), settled_again.values), settled_again.values, look)
    assert again == cell.signatures  # what a cell brings is what the grid expected
    (root.parent / "pairs.csv").write_text("question,better,worse\nHi?,no,yes\n")
    (other,) = grid(root, asked)
    assert other.signatures["collect"] != cell.signatures["collect"]
    with pytest.raises(PreflowError, match="all cells of a comparison have the same model and data"):
        grid(root, Asked(algorithms=("dpo",), settings=("base.model=../model,../other", OWN[1])))


def test_profiles_that_extend_each_other_are_refused(root: Path) -> None:
    (root / "profiles" / "a.yaml").write_text("extends: b\n")
    (root / "profiles" / "b.yaml").write_text("extends: a\n")
    with pytest.raises(PreflowError, match="extends"):
        profiles.resolve(root, "a")


def test_a_profile_over_another_has_its_values_and_its_graph(root: Path) -> None:
    (root / "profiles" / "kind").mkdir()
    (root / "profiles" / "kind" / "params.yaml").write_text("registry:\n  name: kind\nseed: 3\nthreads: 2\n")
    (root / "profiles" / "kind" / "dvc.yaml").write_text("stages: {}\n")
    (root / "profiles" / "over.yaml").write_text("extends: kind\nseed: 4\n")
    over = profiles.resolve(root, "over")
    assert (over.values["seed"], over.values["threads"], over.registry) == (4, 2, "policy-over")
    assert over.dvc_yaml == root / "profiles" / "kind" / "dvc.yaml"
