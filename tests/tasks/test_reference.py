"""params.yaml and the configuration page are views of the models, and every shipped YAML file means what it says."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from flows import profiles
from tasks import reference
from tasks.config import ConfigError, Section, read_yaml
from tasks.config.params import Params, with_sections

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "params.yaml", *sorted(ROOT.glob("profiles/*.yaml")), *sorted(ROOT.glob("profiles/*/params.yaml"))]


class Inner(Section):
    """What the inner one is for."""

    lr: float = Field(5e-6, gt=0, lt=1, description="learning rate")
    how: Literal["token", "sequence"] = Field("token", description="mean over tokens | sequences")
    name: str = Field("yes # no", description="a string that YAML would misread")
    answer: str = Field("no", description="YAML 1.2 reads this as a string")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's")
    limit: int | None = Field(None, ge=1, description="none = no limit")


class Outer(Section):
    seed: int = Field(0, description="of everything")
    inner: Inner = Field(default_factory=Inner, description="one section")


def leaves(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            yield from leaves({str(index): one for index, one in enumerate(value)}, (*path, key))
        elif isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def test_params_text_says_each_key_with_its_meaning(tmp_path: Path) -> None:
    text = reference.render_params(Outer)
    assert "\n# of everything\nseed: 0\n\n# one section\ninner:\n  # learning rate\n  lr: 5.0e-6\n" in text
    (tmp_path / "params.yaml").write_text(text)
    values = read_yaml(tmp_path / "params.yaml")
    assert Outer.parse(values, "") == Outer()
    assert values["inner"]["name"] == "yes # no"
    assert values["inner"]["lr"] == 0.000005 and isinstance(values["inner"]["lr"], float)


def test_page_has_type_default_limits_and_meaning() -> None:
    page = reference.render_page(Outer)
    assert "## `inner`\n\nOne section.\n" in page
    assert "| `lr` | number | `5.0e-6` | > 0, < 1 | learning rate |" in page
    assert "| `how` | choice | `token` | `token`, `sequence` | mean over tokens \\| sequences |" in page
    assert "| `limit` | integer or null | `null` | ≥ 1 | none = no limit |" in page


@pytest.mark.parametrize("name", ["params.yaml", "docs/configuration.md"])
def test_shipped_files_are_fresh(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == reference.rendered(Params)[name], (
        "run `python -m tasks.reference --write`"
    )


def test_shipped_params_are_the_defaults_of_the_code() -> None:
    assert read_yaml(ROOT / "params.yaml") == Params().model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_leaf_has_its_declared_type(path: Path) -> None:
    """YAML that reads `5e-6` or `1_000` as text would pass pydantic's conversions unseen."""
    values = read_yaml(path)
    values.pop("extends", None)
    name = path.parent.name if path.parent.parent.name == "profiles" else path.stem
    resolved = profiles.resolve(ROOT, "" if path.parent == ROOT else name)
    model = with_sections(resolved.further).parse(resolved.values, "")
    typed = dict(leaves(model.model_dump(mode="json", by_alias=True)))
    for key, value in leaves(values):
        where = f"{path.name}: {'.'.join(key)}"
        expected = typed.get(key, value)
        if isinstance(expected, list) and isinstance(value, str):
            value = [value]  # one text is a list of one
        assert isinstance(value, bool) == isinstance(expected, bool), where
        assert isinstance(value, str) == isinstance(expected, str), where
        assert value == expected, where


@pytest.mark.parametrize("text", ["5e-6", "5E-6", "5.0e-6", "0.000005"])
def test_small_numbers_are_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(f"inner:\n  lr: {text}\n")
    value = read_yaml(tmp_path / "params.yaml")["inner"]["lr"]
    assert isinstance(value, float) and value == 5e-6


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"inner\.lrr: unknown key; did you mean `lr`\?"):
        Outer.parse({"inner": {"lrr": 1.0}}, "")
