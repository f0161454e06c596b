"""params.yaml, a profile, `--set`: which value wins, and what a mistake is told."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import hub, profiles
from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.config.collect import Collect
from tasks.config.rl import Rl


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


TWICE = """\
stages:
  rl:
    cmd: OMP_NUM_THREADS=1 python -m tasks.rl --params rl
      --out data/10_rl
  rl_again:
    cmd: OMP_NUM_THREADS=1 python -m tasks.rl --policy data/10_rl
      --params rl_again --out data/11_rl
"""


@pytest.fixture
def twice(root: Path) -> Path:
    (root / "profiles" / "kind" / "dvc.yaml").write_text(TWICE)
    return root


def test_a_graph_that_uses_a_module_twice_has_two_sections(twice: Path) -> None:
    (twice / "profiles" / "kind" / "params.yaml").write_text("rl_again:\n  num_updates: 3\n")
    values = profiles.resolve(twice, "kind", ["rl_again.kl_coef=0.5"]).values
    assert (values["rl_again"]["num_updates"], values["rl_again"]["kl_coef"]) == (3, 0.5)
    assert values["rl"] == {"kl_coef": 0.05}
    assert values["rl_again"] == Rl(num_updates=3, kl_coef=0.5).model_dump(mode="json")  # whole, as DVC reads the file
    assert "rl_again" not in profiles.resolve(twice).values


@pytest.mark.parametrize(
    ("profile", "setting", "message"),
    [
        ("kind", "rl_again.kl_coeff=1", "rl_again.kl_coeff: unknown key; did you mean `kl_coef`"),
        ("kind", "rl_again.kl_coef=-1", "rl_again.kl_coef: "),
        ("kind", "rl_agian.kl_coef=1", "rl_agian: unknown key; did you mean `rl_again`"),
        ("", "rl_again.kl_coef=1", "rl_again: unknown key"),
    ],
)
def test_further_sections_are_as_strict_as_others(twice: Path, profile: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profiles.resolve(twice, profile, [setting])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("--params rl_again", "--params sft", "cannot have section `sft`, which is taken"),
        ("tasks.rl --policy", "tasks.rll --policy", "no stage has this module"),
        ("--params rl\n", "--params rl_again\n", "tasks.sft and tasks.rl share section `rl_again`"),
    ],
)
def test_sections_that_cannot_be_are_refused(twice: Path, old: str, new: str, message: str) -> None:
    text = TWICE.replace("tasks.rl --params rl\n", "tasks.sft --params rl\n").replace(old, new)
    (twice / "profiles" / "kind" / "dvc.yaml").write_text(text if "share" in message else TWICE.replace(old, new))
    with pytest.raises(PreflowError, match=message):
        profiles.resolve(twice, "kind")


SHIPPED = profiles.names(Path(__file__).parents[2])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_loads(name: str) -> None:
    resolved = profiles.resolve(Path(__file__).parents[2], name)
    assert resolved.registry == f"policy-{name}"
    assert resolved.label == name


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
        ("", "pools.rl.gpus=4", "^pools.rl: unknown key gpus; known keys: pool, job_variables"),
        ("", "pools.rl=3", r"^pools\.rl: expected a pool's name, or \{pool: NAME, job_variables: .* \(got 3\)$"),
        ("", "pools.rl=[a]", r"^pools\.rl: expected a pool's name, or \{pool: NAME, job_variables: "),
        ("", "pools.rl={pool: a, job_variables: {command: x}}", "job_variables: `command` is not for a stage"),
        ("", "rl.kl_coeff=1", "rl.kl_coeff: unknown key; did you mean `kl_coef`"),
        ("", "rl.kl_coef=much", "rl.kl_coef: "),
        ("", "rl.kl_coef", "expected key.path=value"),
        ("", "seed=[", "not readable as YAML"),
        ("", "rl.lr=1e-3", "rl.lr: is in algorithms.<name> now, here algorithms.ppo.lr"),
        ("", "dpo.beta=1", "dpo.beta: is in algorithms.<name> now, here algorithms.dpo.beta"),
        ("", "dpo.label_smoothing=0", "is in algorithms.<name> now: algorithms.cdpo.label_smoothing; dpo has none"),
        ("", "rl={lr: 1, algorithm: grpo}", "here algorithms.grpo.lr"),
        ("", "rl.kl_coef=0.1,0.2", r"valid number.*got '0\.1,0\.2'\); several values at once: `preflow compare`"),
        ("", "rl.kl_coef=", "rl.kl_coef: a value is missing; Input should be a valid number"),
        ("", "rl={}", "--set rl={}: sets nothing; expected --set rl.NAME=VALUE"),
        ("", "rl.algorithm=dpo", "rl.algorithm: dpo is not on-policy but direct: set dpo.algorithm=dpo"),
    ],
)
def test_mistakes_are_named(root: Path, profile: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profiles.resolve(root, profile, [setting] if setting else [])


def test_a_penalty_that_is_no_leash_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"algorithms\.grpo: .*k3 is no leash.*use k1 there, or kl_in loss"):
        profiles.resolve(root, settings=["algorithms.grpo.kl_in=reward"])
    profiles.resolve(root, settings=["algorithms.grpo.kl_in=reward", "algorithms.grpo.kl_estimator=k1"])
    with pytest.raises(ConfigError, match=r"algorithms\.rloo: .*k1 is no leash.*expected gradient"):
        profiles.resolve(root, settings=["algorithms.rloo.kl_in=loss"])


def test_unknown_sections_are_listed_by_the_names_that_params_yaml_has(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key; known keys: .*\bvalidate, "):
        profiles.resolve(root, settings=["zzzz=1"])


@pytest.mark.parametrize("name", ["qwen3-0.6b-lora", "qwen3-1.7b", "llama-3.1-8b-qlora"])
def test_templates_for_gpus_name_what_they_need_on_the_hub(name: str) -> None:
    values = profiles.resolve(Path(__file__).parents[2], name).values
    section = Collect.parse(values["collect"], "collect")
    named = [values["base"]["model"], *(text for texts in section.given().values() for text in texts)]
    assert [text for text in named if not hub.parse(text)] == []
    assert section.given() and section.source == "inbox" and values["base"]["source"] == "checkpoint"
    assert not values["sources"]
    needed = {kind for kind in values["validate"]["required"] if kind not in section.given()}
    derived = {"prompts", "eval"} | ({"demonstrations"} if section.chosen_as_demonstrations else set())
    assert needed <= derived
    assert values["training"]["method"] == {"lora": "lora", "qlora": "qlora"}.get(name.rpartition("-")[2], "full")


def test_a_pool_is_a_name_or_a_name_with_job_variables() -> None:
    root = Path(__file__).parents[2]
    settings = ["pools.sft=gpu", "pools.rl.pool=jobs", "pools.rl.job_variables.gpus=4"]
    assert profiles.resolve(root, settings=settings).values["pools"] == {
        "sft": "gpu",
        "rl": {"pool": "jobs", "job_variables": {"gpus": 4}},
    }


def test_a_password_among_job_variables_is_refused_and_not_shown() -> None:
    root, password = Path(__file__).parents[2], "wJalrXUtnFEMI"
    for pool in ("pool: gpu, ", ""):
        setting = f"pools.rl={{{pool}job_variables: {{env: {{AWS_SECRET_ACCESS_KEY: {password}}}}}}}"
        with pytest.raises(ConfigError, match=r"`env` is not for a stage.*give passwords by Secrets") as refused:
            profiles.resolve(root, settings=[setting])
        assert password not in str(refused.value)
    with pytest.raises(ConfigError, match="looks like a password in a URL"):
        profiles.resolve(root, settings=["pools.rl={pool: gpu, job_variables: {image: 'https://a:b@c'}}"])


def test_a_key_that_is_set_twice_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set rl\.kl_coef is given 2 times; give it once"):
        profiles.resolve(root, "", ["rl.kl_coef=0.1", "seed=1", "rl.kl_coef=0.2"])
