"""Names on the hub among what the user names: pinned, told from paths, and explained where they cannot be had."""

from pathlib import Path

import pytest

from flows import hub
from rlhf.errors import DependencyDown, PreflowError
from tests.flows.own_data import OWN, brought, checkout, settled


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path)


def of_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[hub.Wanted]:
    """The hub answers with a folder, and what was asked of it is listed."""
    asked: list[hub.Wanted] = []

    def fetch(wanted: hub.Wanted) -> hub.Fetched:
        asked.append(wanted)
        files = sorted(path.name for path in folder.iterdir())
        return hub.Fetched(str(folder), "c0ffee" if wanted.revision == "main" else wanted.revision, tuple(files), "mit")

    monkeypatch.setattr(hub, "fetch", fetch)
    return asked


def test_a_hub_name_is_pinned_by_the_run_that_it_was_given_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = of_hub(monkeypatch, root.parent / "model")
    said: list[str] = []
    first = settled(root, "base.model=org/name", OWN[1], say=said.append)
    assert asked[-1] == hub.Wanted("org/name", kind="model")
    assert first.values["sources"][0]["revision"] == "c0ffee"
    assert first.values["sources"][0]["origin"] == "huggingface.co/org/name"
    assert "org/name@c0ffee keeps it there" in said[-1]
    (root / "params.yaml").write_text(first.text)
    settled(root, say=said.append)
    assert asked[-1].revision == "c0ffee"  # not what `main` is by then
    settled(root, "base.model=org/name@beef")
    assert asked[-1].revision == "beef"


def test_a_data_set_of_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "set").mkdir()
    (root.parent / "set" / "train.parquet").write_bytes(b"PAR1")
    asked = of_hub(monkeypatch, root.parent / "set")
    resolved = settled(root, OWN[0], "collect.preferences=org/pairs:train_prefs")
    assert asked == [hub.Wanted("org/pairs", split="train_prefs")]
    listed = brought(root, resolved)["org/pairs"]
    assert list(listed["files"]) == ["given/preferences/pairs/train.parquet"]
    assert (listed["origin"], listed["licence"]) == ("huggingface.co/datasets/org/pairs train_prefs", "mit")


def test_two_data_sets_of_one_name_are_both_pinned(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "set").mkdir()
    (root.parent / "set" / "train.parquet").write_bytes(b"PAR1")
    asked = of_hub(monkeypatch, root.parent / "set")
    first = settled(root, OWN[0], "collect.preferences=[one/pairs, two/pairs]")
    assert [source["target"] for source in first.values["sources"][1:]] == [
        "given/preferences/pairs", "given/preferences/2-pairs",
    ]  # fmt: skip
    (root / "params.yaml").write_text(first.text)
    settled(root)
    assert [wanted.revision for wanted in asked[-2:]] == ["c0ffee", "c0ffee"]


def test_without_a_network_the_key_and_the_folder_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_: hub.Wanted) -> hub.Fetched:
        raise DependencyDown("https://huggingface.co/org/name cannot be fetched (no route): connect, or …")

    monkeypatch.setattr(hub, "fetch", fetch)
    with pytest.raises(
        DependencyDown, match=r"base\.model=org/name: there is no .*/org/name here, and https://"
    ) as down:
        settled(root, "base.model=org/name", OWN[1])
    assert down.value.exit_code == 87


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("base.model=models/mine",),
            "there is no folder .*/checkout/models/mine; .* hub:NAME, also where a folder here",
        ),
        (
            (OWN[0], "collect.preferences=data/pairs"),
            "no file .*/checkout/data/pairs; .*, or hub:data/pairs for that name",
        ),
        (
            (OWN[0], "collect.preferences=data/pairs:train"),
            "there is no file .*, or hub:data/pairs:train for that name",
        ),
        ((OWN[0], "collect.preferences=org/pairs.csv"), "there is no file .*, or hub:org/pairs.csv for that name"),
        ((OWN[0], "collect.preferences=../pairs"), r"there is no file .*relative ones start at [^,]*$"),
    ],
)
def test_a_mistyped_path_is_no_question_to_the_hub(
    root: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], message: str
) -> None:
    (root / "models").mkdir()
    (root / "data").mkdir()
    asked = of_hub(monkeypatch, root.parent / "model")
    with pytest.raises(PreflowError, match=message) as refused:
        settled(root, *settings)
    assert asked == [] and "\n" not in str(refused.value)


def test_the_same_with_hub_in_front_is_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "models").mkdir()
    asked = of_hub(monkeypatch, root.parent / "model")
    settled(root, "base.model=hub:models/mine", OWN[1])
    assert asked == [hub.Wanted("models/mine", kind="model")]
