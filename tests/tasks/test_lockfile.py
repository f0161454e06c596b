"""dvc.lock by its entries, against the whole of it read as YAML."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.config import ConfigError
from tasks.lockfile import locked, read_lock

WRITTEN = """schema: '2.0'
stages:
  sft:
    cmd: OMP_NUM_THREADS=1 python -m tasks.sft --policy
      data/04_base/policy
    deps:
    - path: data/04_base/policy
      hash: md5
      md5: 00000000000000000000000000000001.dir
      size: 10
      nfiles: 2
    params:
      params.yaml:
        sft:
          lr: 5e-06
  "2":
    cmd: 'true'

  rl@ppo:
    cmd: 'true'
"""
"""With a folded line, a number that only YAML 1.2 takes for one, a name in quotes and one of a matrix."""


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN,
        "",
        "stages:\n  sft:\n    cmd: 'true'\n",
        f"# mended by hand\n{WRITTEN}",
        WRITTEN.replace("stages:\n", "stages:\n  # mended by hand\n", 1),
        f"{WRITTEN}datasets:\n- name: prompts\n",
        WRITTEN.replace("\n  ", "\n     "),
        WRITTEN.replace("\n  rl@ppo", "\n  #mended:\n  rl@ppo"),
        WRITTEN.replace("cmd: 'true'\n\n", "cmd: &same 'true'\n\n").replace("cmd: 'true'\n", "cmd: *same\n"),
        f"{WRITTEN}  gate:\n",
    ],
    ids=[
        "as DVC writes it",
        "empty",
        "without a schema",
        "comment",
        "comment inside",
        "with datasets",
        "indented more",
        "comment like a stage",
        "alias",
        "cut after a name",
    ],
)
def test_entries_are_those_of_the_whole_file(text: str, tmp_path: Path) -> None:
    whole = (YAML(typ="safe").load(text) or {}).get("stages") or {}
    assert locked(text) == whole
    (tmp_path / "dvc.lock").write_text(text)
    assert read_lock(tmp_path / "dvc.lock") == whole


def test_an_entry_that_stayed_is_not_read_again() -> None:
    before, after = locked(WRITTEN), locked(WRITTEN.replace("'true'\n\n", "'false'\n\n"))
    assert after["sft"] is before["sft"]
    assert (before["2"], after["2"]) == ({"cmd": "true"}, {"cmd": "false"})


TORN = ["schema: '2.0'\nstages:\n  sft:\n    cmd: [\n", "- a list\n", "\t", f"{WRITTEN}  sft:\n    cmd: 'false'\n"]


@pytest.mark.parametrize("text", TORN, ids=["open bracket", "list", "tab", "a stage twice"])
def test_a_torn_file_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(ConfigError, match=r"dvc\.lock"):
        read_lock(tmp_path / "dvc.lock")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dvc\.lock: no such file"):
        read_lock(tmp_path / "dvc.lock")
