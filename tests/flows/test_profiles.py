"""params.yaml, a profile, `--set`: which value wins, and what a mistake is told."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import profiles
from tasks.config import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("# top\nseed: 0\nrl:\n  kl_coef: 0.05  # the leash\n")
    (tmp_path / "profiles" / "kind").mkdir(parents=True)
    (tmp_path / "profiles" / "polite.yaml").write_text("rl:\n  kl_coef: 5e-3\n")
    (tmp_path / "profiles" / "kind" / "params.yaml").write_text("seed: 3\n")
    (tmp_path / "profiles" / "kind" / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path


def test_the_last_word_wins_and_the_rest_stays_as_written(root: Path) -> None:
    plain = profiles.resolve(root)
    assert (plain.label, plain.registry, plain.dvc_yaml) == ("", "policy", None)
    over = profiles.resolve(root, "polite")
    assert over.values["rl"]["kl_coef"] == 5e-3
    assert over.registry == "policy-polite"
    last = profiles.resolve(root, "polite", ["rl.kl_coef=5e-6", "seed=2"])
    assert YAML(typ="safe").load(last.text) == last.values
    assert (last.values["rl"]["kl_coef"], last.values["seed"]) == (5e-6, 2)
    assert isinstance(last.values["rl"]["kl_coef"], float)
    assert last.label == "polite rl.kl_coef=5e-6 seed=2"
    assert last.text.startswith("# top\n")
    assert "# the leash" in last.text


def test_a_profile_may_bring_its_own_graph(root: Path) -> None:
    assert profiles.resolve(root, "kind").dvc_yaml == root / "profiles" / "kind" / "dvc.yaml"


def test_a_secret_is_refused_by_the_name_of_its_key_and_not_shown(root: Path) -> None:
    secret = "hf_" + "a1B2" * 6
    with pytest.raises(ConfigError, match=r"--set rl\.kl_coef: its value looks like a Hugging Face token") as refused:
        profiles.resolve(root, "", [f"rl.kl_coef={secret}"])
    assert secret not in str(refused.value)
    assert refused.value.exit_code == 2
    (root / "profiles" / "polite.yaml").write_text(f"registry:\n  name: {secret}\n")
    with pytest.raises(ConfigError, match=r"registry\.name: its value"):
        profiles.resolve(root, "polite")


@pytest.mark.parametrize(
    ("profile", "setting", "message"),
    [
        ("polit", "", "did you mean `polite`"),
        ("../x", "", "no such profile"),
        ("", "rl.kl_coeff=1", "rl.kl_coeff: unknown key; did you mean `kl_coef`"),
        ("", "rl.kl_coef=much", "rl.kl_coef: "),
        ("", "rl.kl_coef", "expected key.path=value"),
        ("", "seed=[", "not readable as YAML"),
    ],
)
def test_mistakes_are_named(root: Path, profile: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profiles.resolve(root, profile, [setting] if setting else [])
