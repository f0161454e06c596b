"""The mutation check cannot rot: what it breaks is there to be broken, and what must notice exists. Running it is
`make mutations`."""

import ast
from functools import cache

import pytest

from tools.mutations import ROOT, Mutation, mutated, mutations

ALL = mutations()
DEMANDED = ("k1", "k2", "k3", "stop token", "denominator", "[:, −1]", "keeps the mean", "padding")


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_there_is_one_place_to_break_and_a_test_to_notice(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    ast.parse(mutated(mutation, text))  # what does not compile is noticed by anybody
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert name in functions(file), f"{test} is no more: bring tools/mutations.yaml up to date"


def test_each_has_a_name_of_its_own_and_what_others_get_wrong_is_among_them() -> None:
    names = [mutation.name for mutation in ALL]
    assert len(set(names)) == len(names)
    assert all(any(part in name for name in names) for part in DEMANDED)


def test_a_text_that_is_not_there_or_there_twice_is_said() -> None:
    absent, twice = (Mutation("m", "f", old, "", ()) for old in ("c", "a"))
    for mutation, count in ((absent, 0), (twice, 2)):
        with pytest.raises(ValueError, match=f"occurs {count} times"):
            mutated(mutation, "a b a")
