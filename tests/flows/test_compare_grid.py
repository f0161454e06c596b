"""Cells of a comparison: what multiplies them, what does not, and what makes a cell another one."""

import json
from pathlib import Path

import pytest

from flows import profiles
from flows.compare.grid import Asked, Cell, grid, parse_seeds, values_of
from flows.compare.outlook import A_CELL, A_SEED, IN_PART, ONCE, refuse_idle, shared, timed_by_runs, untimed
from tasks.config import ConfigError
from tasks.journal import home
from tests.flows.compare_toy import make_toy
from tests.flows.toy import REPO, git


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("grid") / "project")


@pytest.fixture
def toy(shipped: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", str(shipped), str(tmp_path / "project"))
    return tmp_path / "project"


def names(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def test_seeds_are_a_count_or_a_list() -> None:
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("0,3,7") == (0, 3, 7)
    assert parse_seeds("7,") == (7,)
    for text in ("0", "-1", "a", "", "1,-2"):
        with pytest.raises(ConfigError, match=r"expected a count .* or a list"):
            parse_seeds(text)
    assert len(parse_seeds("100")) == 100
    with pytest.raises(ConfigError, match="--seeds 101: at most 100"):
        parse_seeds("101")


def test_commas_separate_values_but_not_inside_of_one() -> None:
    assert values_of("rl.kl_coef=0.02, 0.05") == ["rl.kl_coef=0.02", "rl.kl_coef=0.05"]
    assert values_of("a.b=[1,2],[3]") == ["a.b=[1,2]", "a.b=[3]"]
    assert values_of("a={b: 1, c: 2}") == ["a={b: 1, c: 2}"]
    assert values_of("a='x,y',z") == ["a='x,y'", "a=z"]


def test_a_setting_multiplies_only_the_cells_that_read_it(toy: Path) -> None:
    cells = grid(toy, Asked(("ppo", "dpo"), seeds=(0, 1), settings=("rl.kl_coef=0.02,0.05",)))
    assert names(cells) == [
        *("ppo rl.kl_coef=0.02 seed 0", "ppo rl.kl_coef=0.02 seed 1"),
        *("ppo rl.kl_coef=0.05 seed 0", "ppo rl.kl_coef=0.05 seed 1"),
        *("dpo seed 0", "dpo seed 1"),
    ]
    assert cells[0].settings == ("rl.algorithm=ppo", "seed=0", "rl.kl_coef=0.02")
    assert cells[-1].settings == ("dpo.algorithm=dpo", "seed=1")
    assert (cells[0].stage, cells[0].policy, cells[-1].stage, cells[-1].policy) == ("rl", "rl", "dpo", "dpo")
    # The settings that reach a policy: SFT knows nothing of the leash.
    assert cells[0].policies == {
        "sft": (), "rejection_sampling": (), "random_control": (), "rl": ("rl.kl_coef=0.02",)
    }  # fmt: skip


def test_one_value_for_all_is_set_and_not_shown(toy: Path) -> None:
    (cell,) = grid(toy, Asked(("grpo",), settings=("rl.kl_coef=0.3", "sft.epochs=1")))
    assert cell.name == "grpo seed 0"
    assert cell.settings == ("rl.algorithm=grpo", "seed=0", "rl.kl_coef=0.3", "sft.epochs=1")


def test_learning_rates_are_those_of_the_cells_own_algorithm(toy: Path) -> None:
    cells = grid(toy, Asked(("grpo", "ipo"), rates=("1e-3", "2e-3")))
    assert [cell.settings[-1] for cell in cells] == [
        *("algorithms.grpo.lr=1e-3", "algorithms.grpo.lr=2e-3"),
        *("algorithms.ipo.lr=1e-3", "algorithms.ipo.lr=2e-3"),
    ]


def test_shared_stages_have_one_signature(toy: Path) -> None:
    cells = grid(toy, Asked(("ppo", "grpo", "dpo"), seeds=(0, 1)))
    by_stage = {name: {cell.signatures[name] for cell in cells} for name in ("collect", "sft", "evaluate")}
    assert {name: len(found) for name, found in by_stage.items()} == {"collect": 1, "sft": 2, "evaluate": 6}
    assert len({cell.key for cell in cells}) == 6


def test_a_key_moves_with_code_data_and_parameters_only(toy: Path) -> None:
    asked = Asked(("ppo", "dpo"))
    ppo, dpo = (cell.key for cell in grid(toy, asked))
    # Neither a champion nor another method's settings.
    (toy / "data" / "champion").mkdir()
    (toy / "data" / "champion" / "champion.json").write_text(json.dumps({"version": 3}))
    params = (toy / "params.yaml").read_text()
    (toy / "params.yaml").write_text(params.replace("kl_coef: 0.1", "kl_coef: 0.7"))
    assert [cell.key == old for cell, old in zip(grid(toy, asked), (ppo, dpo), strict=True)] == [False, True]
    (toy / "params.yaml").write_text(params)
    assert [cell.key for cell in grid(toy, asked)] == [ppo, dpo]
    for path in ("stage.py", "data/inbox/more.jsonl"):
        file = toy / path
        before = file.read_text() if file.exists() else None
        file.write_text((before or "") + "\n")
        assert not {cell.key for cell in grid(toy, asked)} & {ppo, dpo}, path
        file.unlink() if before is None else file.write_text(before)
    assert [cell.key for cell in grid(toy, asked)] == [ppo, dpo]


def test_the_gate_is_not_asked_for_a_policy_that_was_left_out(toy: Path) -> None:
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text() + "gate: {candidate: rl}\n")
    cells = grid(toy, Asked(("ppo", "dpo")))
    assert ["gate.candidate=best" in cell.settings for cell in cells] == [False, True]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(("pppo",)), "did you mean `ppo`"),
        (Asked(("PPO",)), "did you mean `ppo`"),
        (Asked(("",)), "--algorithm : a name is missing; there are: .*ppo"),
        (Asked(("ppo", "")), "--algorithm ppo,: a name is missing; there are: .*ppo"),
        (Asked(("ppo",), rates=("1e-3", "")), "--lr 1e-3,: a value is missing"),
        (Asked(("ppo",), settings=("rl.lr=1,2",)), r"rl\.lr: is in algorithms\.<name> now, here algorithms\.ppo\.lr"),
        (Asked(("ppo",), settings=("rl.klcoef=1,2",)), "rl.klcoef: unknown key; did you mean `kl_coef`"),
        (Asked(("dpo",), settings=("rl.klcoef=1,2",)), "did you mean `kl_coef`"),
        (Asked(("ppo",), settings=("rl.kl_coef=0.1,high",)), "rl.kl_coef: .* valid number"),
        (Asked(("ppo",), settings=("seed=1,2",)), "--set seed=1,2: a comparison takes this from --seeds"),
        (Asked(("ppo",), settings=("rl.algorithm=ppo,grpo",)), "takes this from --algorithm"),
        (Asked(("ppo",), settings=("rl={algorithm: grpo}",)), r"rl.algorithm grpo in a cell of ppo: .* --algorithm"),
        (Asked(("ppo",), settings=("rl.kl_coef=1", "rl.kl_coef=2")), "--set rl.kl_coef: given twice; give .* commas"),
        (Asked(("ppo",), settings=("rl.kl_coef=1", "rl={kl_coef: 2}")), "--set rl.kl_coef and rl: one holds the other"),
        (
            Asked(("ppo",), settings=("algorithms.ppo.lr=1",), rates=("2",)),
            r"--set algorithms.ppo.lr: given twice \(--lr sets it too\); give the values with commas",
        ),
        (Asked(("ppo",), profile="plite"), "--profile plite: no such profile"),
    ],
)
def test_mistakes_are_told_before_anything_runs(shipped: Path, asked: Asked, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(shipped, asked)


def test_a_profile_with_an_order_of_its_own_brings_its_methods(toy: Path) -> None:
    folder = toy / "profiles" / "direct"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("sft: {epochs: 1}\n")
    text = (toy / "dvc.yaml").read_text()
    folder.joinpath("dvc.yaml").write_text(text.replace("algorithms.${rl.algorithm}", "rl.algorithm"))
    with pytest.raises(
        ConfigError, match=r"--algorithm reinforce: profile direct has no on-policy stage .* there are: dpo"
    ):
        grid(toy, Asked(("reinforce",), profile="direct"))
    (cell,) = grid(toy, Asked(("dpo",), profile="direct"))
    assert "rl" in cell.signatures  # no method there, so no alternative


def test_a_seed_among_several_is_the_cell_that_it_is_alone(toy: Path) -> None:
    """The graph is read for the first seed only, unless a command names the seed."""
    named = (toy / "dvc.yaml").read_text().replace("tasks.sft", "tasks.sft --say ${seed}")
    for text in ((toy / "dvc.yaml").read_text(), named):
        (toy / "dvc.yaml").write_text(text)
        asked = [Asked(("ppo",), seeds=seeds, settings=("rl.kl_coef=1,2",)) for seeds in ((0, 1), (0,), (1,))]
        both, zero, one = (grid(toy, each) for each in asked)
        assert both == [zero[0], one[0], zero[1], one[1]]


def test_values_that_change_no_policy_are_refused_or_told() -> None:
    said: list[str] = []
    for settings in (("rl.kl_coef=1,2",), ("gate.max_kl=3",), ("evaluate.num_prompts=100,200",)):
        asked = Asked(("ppo", "dpo"), settings=settings)
        refuse_idle(REPO, asked, grid(REPO, asked), said.append)
    assert said == ["--set evaluate.num_prompts=100,200: changes no policy, only how policies are measured"]
    asked = Asked(("dpo",), settings=("gate.max_kl=3,4",))
    with pytest.raises(ConfigError, match=r"--set gate\.max_kl=3,4: changes no policy .* nothing to compare"):
        refuse_idle(REPO, asked, grid(REPO, asked), said.append)
    asked = Asked(("dpo",), settings=("rl.kl_coef=1,2",))
    refuse_idle(REPO, asked, grid(REPO, asked), said.append)
    assert said[1:] == ["--set rl.kl_coef=1,2: no stage of these cells reads it"]


def test_an_outlook_tells_what_is_shared(toy: Path) -> None:
    cells = grid(toy, Asked(("ppo", "dpo"), seeds=(0, 1), settings=("rl.kl_coef=1,2",)))
    assert shared(cells) == {
        ONCE: ["collect"],
        A_SEED: ["sft", "rejection_sampling"],
        A_CELL: ["rl", "evaluate", "gate", "dpo"],
    }
    cells = grid(toy, Asked(("ppo", "grpo"), settings=("sft.epochs=1,2",)))
    assert shared(cells)[IN_PART] == ["sft", "rejection_sampling"]
    assert {"sft", "rl ppo", "rl grpo"} <= set(untimed(toy, cells, {}))


def test_stages_that_a_plain_run_has_timed_are_not_called_untimed(toy: Path) -> None:
    """Of a method's own stage the run must have had the cell's algorithm."""
    params = profiles.resolve(toy).values
    ran = {name: {"state": "ran", "seconds": 10.0} for name in ("collect", "sft", "rejection_sampling", "rl", "gate")}
    folder = home(toy) / "journal" / "20260101-000000-aaaa"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"info": {"profile": "", "params": params}}))
    (folder / "finish.json").write_text(json.dumps({"results": ran}))
    asked = Asked(("grpo", "ppo"), seeds=(3,))
    cells = grid(toy, asked)
    chosen = f"rl {params['rl']['algorithm']}"
    by_runs = timed_by_runs(toy, asked, cells)
    assert by_runs == dict.fromkeys(["collect", "sft", "rejection_sampling", chosen, "gate"], 10.0)
    (other,) = {"rl grpo", "rl ppo"} - {chosen}
    assert {other, "evaluate"} <= set(untimed(toy, cells, by_runs)) and chosen not in untimed(toy, cells, by_runs)


def test_the_same_algorithm_at_another_stage_is_another_cell(toy: Path) -> None:
    """Both stages run in either cell; what differs is whose policy the cell is about."""
    text = (toy / "dvc.yaml").read_text()
    again = """  rl_again:
    cmd: python -m tasks.rl --params rl --policy data/10_rl/policy --out data/10_again
    deps:
    - data/10_rl/policy
    - stage.py
    params:
    - rl
    - algorithms.${rl.algorithm}
    outs:
    - data/10_again/policy
"""
    text = text.replace("  evaluate:", again + "  evaluate:")
    text = text.replace("rl=data/10_rl/policy", "rl=data/10_rl/policy rl_again=data/10_again/policy")
    (toy / "dvc.yaml").write_text(
        text.replace(
            "    - data/10_rl/policy\n    - data/11",
            "    - data/10_rl/policy\n    - data/10_again/policy\n    - data/11",
        )
    )
    one, two = (grid(toy, Asked(("ppo",), stage=stage))[0] for stage in ("rl", "rl_again"))
    assert one.signatures == two.signatures
    assert one.key != two.key
    assert (one.policy, two.policy) == ("rl", "rl_again")
    # What goes on from the method's policy is another one for another algorithm.
    ppo, grpo = grid(toy, Asked(("ppo", "grpo"), stage="rl"))
    assert (ppo.policies["rl_again"], grpo.policies["rl_again"]) == (("with ppo",), ("with grpo",))
    assert ppo.policies["sft"] == grpo.policies["sft"] == ppo.policies["rl"] == ()


def test_words_about_a_stage_are_no_part_of_a_key(toy: Path) -> None:
    (before,) = grid(toy, Asked(("ppo",)))
    text = (toy / "dvc.yaml").read_text()
    told = text.replace(
        "  evaluate:\n", "  # all of them\n  evaluate:\n    desc: everybody\n    meta: {shown: first}\n"
    )
    (toy / "dvc.yaml").write_text(told)
    (after,) = grid(toy, Asked(("ppo",)))
    assert after.graph != before.graph
    assert after.key == before.key


def test_what_a_policy_is_measured_with_reaches_it_too(toy: Path) -> None:
    """The toy's evaluation reads no section of its own; here it does, and rejection sampling has a setting too."""
    text = (toy / "dvc.yaml").read_text()
    head, tail = text.split("  evaluate:")
    (toy / "dvc.yaml").write_text(
        f"{head}  evaluate:{tail.replace('    - seed', '    - seed' + chr(10) + '    - evaluate', 1)}"
    )
    settings = ("evaluate.num_prompts=100,200", "rl.kl_coef=0.02,0.05")
    cell = grid(toy, Asked(("ppo",), settings=settings))[0]
    assert cell.policies == {
        **dict.fromkeys(("sft", "rejection_sampling", "random_control"), ("evaluate.num_prompts=100",)),
        "rl": ("evaluate.num_prompts=100", "rl.kl_coef=0.02"),
    }


def test_a_reward_model_reaches_every_policy_of_the_real_graph() -> None:
    settings = ("reward_model.epochs=1,2", "rl.kl_coef=0.02,0.05")
    cell = grid(REPO, Asked(("ppo",), settings=settings))[0]
    assert set(cell.policies) == {"base", "sft", "rejection_sampling", "random_control", "rl"}
    assert {cell.policies[name] for name in cell.policies if name != "rl"} == {("reward_model.epochs=1",)}
