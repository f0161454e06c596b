"""The trimmed graph: what goes, what stays byte for byte, and that shared stages stay the same stages."""

from pathlib import Path

import pytest

from flows.compare.graph import method_of, methods, read, reads, signatures, trimmed
from tasks.config import ConfigError, read_yaml
from tasks.graph import Graph, graph_of
from tests.flows.compare_toy import GRAPH
from tests.flows.toy import REPO

REAL = (REPO / "dvc.yaml").read_text(encoding="utf-8")
GRAPHS = [pytest.param(path, id=path.relative_to(REPO).as_posix()) for path in sorted(REPO.glob("profiles/*/dvc.yaml"))]


def test_methods_are_the_stages_with_an_algorithm() -> None:
    found = {method.stage: method for method in methods(GRAPH)}
    assert list(found) == ["dpo", "rl"]
    assert {"ppo", "grpo", "rloo"} <= set(found["rl"].algorithms)
    assert {"dpo", "ipo"} <= set(found["dpo"].algorithms)
    assert method_of("ipo", methods(GRAPH)).stage == "dpo"


def test_of_several_stages_with_an_algorithm_the_last_one_counts_unless_told() -> None:
    twice = GRAPH.replace("  evaluate:", SECOND + "  evaluate:")
    assert method_of("ppo", methods(twice)).stage == "rl_again"
    assert method_of("ppo", methods(twice)).section == "rl_again"
    assert method_of("ppo", methods(twice), "rl").stage == "rl"
    with pytest.raises(ConfigError, match="--stage sft: not among dpo, rl, rl_again"):
        method_of("ppo", methods(twice), "sft")


SECOND = """  rl_again:
    cmd: python -m tasks.rl --params rl_again --policy data/10_rl/policy --out data/10_again
    deps:
    - data/10_rl/policy
    params:
    - algorithms.${rl_again.algorithm}
    outs:
    - data/10_again/policy
"""


def test_unknown_algorithms_get_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"--algorithm grop: no stage of this graph has it; did you mean `grpo`\?"):
        method_of("grop", methods(GRAPH))
    with pytest.raises(ConfigError, match=r"--algorithm ppo: no stage of this graph has it; there are: dpo, cdpo, ipo"):
        method_of("ppo", methods(GRAPH)[:1])


def test_a_report_on_another_method_goes_with_it() -> None:
    text = (REPO / "profiles/over-optimisation/dvc.yaml").read_text(encoding="utf-8")
    assert not {"rl", "trajectory"} & set(read(trimmed(text, "dpo"))["stages"])
    kept = read(trimmed(text, "rl"))["stages"]
    assert {"rl", "trajectory", "evaluate", "gate"} <= set(kept)
    assert "dpo=" not in kept["trajectory"]["cmd"]


def test_what_only_another_method_needs_goes_and_nothing_else_changes() -> None:
    """By hand: two blocks less a comment, two words, a whole line of a command, two dependencies."""
    gone = GRAPH[GRAPH.index("  # the leash") : GRAPH.index("  evaluate:")]
    expected = GRAPH.replace(gone, "").replace("      rl=data/10_rl/policy dpo=", "      dpo=")
    expected = expected.replace(" --rl-metrics data/10_rl/metrics.json", "")
    expected = expected.replace("    - data/10_rl/policy\n", "").replace("    - data/10_rl/metrics.json\n", "")
    assert trimmed(GRAPH, "dpo") == expected
    gone = GRAPH[GRAPH.index("  # the preferences") : GRAPH.index("  rejection_sampling:")]
    expected = GRAPH.replace(gone, "").replace("rl=data/10_rl/policy dpo=data/11_dpo/policy", "rl=data/10_rl/policy")
    assert trimmed(GRAPH, "rl") == expected.replace("    - data/11_dpo/policy\n", "")


def test_an_option_without_a_word_left_goes_too() -> None:
    options = "--rl data/10_rl/policy --dpo data/11_dpo/policy"
    text = GRAPH.replace("rl=data/10_rl/policy dpo=data/11_dpo/policy", options)
    assert "\n      --rl data/10_rl/policy\n" in trimmed(text, "rl")
    assert "--dpo" not in trimmed(text, "rl")


def test_methods_that_feed_each_other_stay_together() -> None:
    at = GRAPH.index("  rl:")
    end = GRAPH.index("  evaluate:")
    chained = GRAPH[:at] + GRAPH[at:end].replace("data/09_rs/policy", "data/11_dpo/policy") + GRAPH[end:]
    assert trimmed(chained, "rl") == trimmed(chained, "dpo") == chained


def test_what_goes_on_from_a_dropped_method_goes_with_it() -> None:
    text = GRAPH.replace("  evaluate:", AFTER + "  evaluate:").replace(
        "rl=data/10_rl/policy dpo=", "rl=data/10_rl/policy polished=data/11_polished/policy dpo="
    )
    text = text.replace("    - data/11_dpo/policy\n    - data/ch", f"{POLISHED}    - data/11_dpo/policy\n    - data/ch")
    assert trimmed(text, "dpo") == trimmed(GRAPH, "dpo")
    assert "polished=data/11_polished/policy" in trimmed(text, "rl")


POLISHED = "    - data/11_polished/policy\n"
AFTER = """  polish:
    cmd: python -m tasks.rejection_sampling --policy data/10_rl/policy --out data/11_polished
    deps:
    - data/10_rl/policy
    outs:
    - data/11_polished/policy
"""


@pytest.mark.parametrize("path", [pytest.param(REPO / "dvc.yaml", id="dvc.yaml"), *GRAPHS])
def test_shared_stages_are_the_same_stages_to_dvc(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    whole = graph_of(read(text), None)
    found = methods(text)
    for method in found:
        short = trimmed(text, method.stage)
        part = graph_of(read(short), None)
        assert trimmed(short, method.stage) == short == trimmed(text, method.stage)
        assert method.stage in part.stages
        changed = {name for name, stage in part.stages.items() if stage != whole.stages[name]}
        behind = part.descendants({method.stage})
        assert changed <= behind - {method.stage}
        for stage in part.stages.values():  # nothing points to what is not made any more
            dropped = [path for path in stage.data_deps if whole.makers(path) and not part.makers(path)]
            words = [word.rpartition("=")[2] for word in stage.cmd.split()]
            assert not dropped
            assert not [word for word in words if whole.makers(word) and not part.makers(word)]


def test_in_the_real_graph_rl_and_dpo_are_alternatives() -> None:
    for own, other in (("rl", "dpo"), ("dpo", "rl")):
        stages = graph_of(read(trimmed(REAL, own)), None).stages
        assert own in stages and other not in stages
        assert set(graph_of(read(REAL), None).stages) - set(stages) == {other}


def toy(params: dict[str, object] | None = None, text: str = GRAPH) -> tuple[Graph, dict[str, object]]:
    values: dict[str, object] = {
        "seed": 0, "collect": {"seed": 0}, "sft": {"epochs": 2}, "rl": {"algorithm": "ppo", "kl_coef": 0.1},
        "dpo": {"algorithm": "dpo"}, "algorithms": {"ppo": {"lr": 1}, "grpo": {"lr": 2}, "dpo": {"beta": 1}},
    }  # fmt: skip
    values |= params or {}
    return graph_of(read(text), values), values


def test_a_signature_moves_with_what_its_stage_depends_on_and_with_nothing_else() -> None:
    plain = signatures(*toy(), outside=lambda path: "0")

    def moved(found: dict[str, str]) -> set[str]:
        return {name for name in plain if found[name] != plain[name]}

    assert moved(signatures(*toy({"seed": 1}), outside=lambda path: "0")) == set(plain) - {"collect"}
    assert moved(signatures(*toy({"dpo": {"algorithm": "dpo", "epochs": 9}}), outside=lambda path: "0")) == {
        *("dpo", "evaluate", "gate")
    }
    other = {"algorithms": {"ppo": {"lr": 1}, "grpo": {"lr": 9}, "dpo": {"beta": 1}}}
    assert not moved(signatures(*toy(other), outside=lambda path: "0"))
    edited = signatures(*toy(), outside=lambda path: "1" if path == "data/champion" else "0")
    assert moved(edited) == {"evaluate", "gate"}
    assert moved(signatures(*toy(), outside=lambda path: "1" if path == "data/inbox" else "0")) == set(plain)
    short = signatures(*toy(text=trimmed(GRAPH, "rl")), outside=lambda path: "0")
    shared = ("collect", "sft", "rejection_sampling", "rl")
    assert {name: short[name] for name in shared} == {name: plain[name] for name in shared}
    assert short["evaluate"] != plain["evaluate"]


def test_which_parameters_a_graph_reads() -> None:
    graph, _ = toy(text=trimmed(GRAPH, "dpo"))
    text = trimmed(GRAPH, "dpo")
    for key in ("seed", "dpo.epochs", "sft", "algorithms.dpo.beta", "algorithms", "collect.world.seed"):
        assert reads(graph, text, key), key
    for key in ("rl.kl_coef", "algorithms.ppo.lr", "registry.name", "sftx.lr"):
        assert not reads(graph, text, key), key
    assert reads(graph, "cmd: OMP_NUM_THREADS=${threads} python", "threads")


def test_the_toy_is_like_the_real_thing() -> None:
    assert read_yaml(REPO / "dvc.yaml")["stages"].keys() >= read(GRAPH)["stages"].keys()
