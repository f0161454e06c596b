"""The configuration of a run: params.yaml, a profile over it, `--set` last; checked against the typed models."""

import io
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.hints import hinted
from flows.releases.refs import check_name
from tasks.config import ConfigError, read_yaml
from tasks.config.collect import GIVEN
from tasks.config.sources import Source
from tasks.graph import further_sections
from tasks.redact import redacted, secret_in

PRETRAINED = "pretrained"
"""Profile under a run that names a model or data of its own, and no profile."""


@dataclass(frozen=True)
class Resolved:
    """What a run is to do."""

    text: str
    """params.yaml of the run: that of the checkout, comments and order kept, with the overlays written in."""
    values: Mapping[str, Any]
    dvc_yaml: Path | None
    """The profile's own graph, where it has one."""
    further: Mapping[str, str]
    """Sections of that graph under other names than their modules': {section: module}."""
    label: str
    """Profile and settings in one line, "" for a plain run; runs of one label differ only by code and data."""
    own_sources: bool
    """Whether it names other sources, or other data, than the checkout does: data/inbox is left out then."""
    under: str = ""
    """Profile that nobody named and that lies under the settings, as they name a model or data of their own."""

    @property
    def registry(self) -> str:
        """The registered model that a promotion goes to."""
        return str((self.values.get("registry") or {}).get("name", "policy"))


def resolve(root: Path, profile: str = "", settings: Sequence[str] = ()) -> Resolved:
    """The configuration of `root` with a profile and `key.path=value` settings over it.

    Raises:
        ConfigError: unknown profile or key (with the nearest known name), or a value that is not allowed or that looks
            like a secret. PreflowError: a registry.name that git cannot keep versions under.
    """
    path = root / "params.yaml"
    plain = read_yaml(path)
    values = _yaml().load(path.read_text(encoding="utf-8")) or {}
    asked: dict[str, Any] = {}
    _set(asked, settings)
    under = PRETRAINED if not profile and any(_names_own(asked)) else ""
    overlay, dvc_yaml = _profile(root, profile or under) if profile or under else ({}, None)
    if (profile or under) and "name" not in (overlay.get("registry") or {}):
        _merge(overlay, {"registry": {"name": f"policy-{profile or under}"}})
    _merge(overlay, _implied(overlay, asked))
    _merge(overlay, asked)
    _merge(values, overlay)
    further = _sections(dvc_yaml or root / "dvc.yaml")
    for section, module in further.items():  # written out, since DVC reads parameters from the file
        values[section] = _whole(values.get(section) or {}, section, module)
    text = _dumped(values)
    resolved = YAML(typ="safe").load(text) or {}
    _refuse_secrets(resolved)
    _refuse_secret(text, "params.yaml or the profile")
    check(resolved, further)
    found = Resolved(
        text=text,
        values=resolved,
        dvc_yaml=dvc_yaml,
        further=further,
        label=" ".join(filter(None, [profile, *sorted(settings)])),
        own_sources=_data_of(resolved) != _data_of(plain),
        under=under,
    )
    check_name(found.registry)
    return found


def with_sources(resolved: Resolved, sources: Sequence[Source]) -> Resolved:
    """The same with these sources."""
    values = _yaml().load(resolved.text) or {}
    values["sources"] = [source.model_dump(mode="json") for source in sources]
    text = _dumped(values)
    return replace(resolved, text=text, values=YAML(typ="safe").load(text))


def names_own(setting: str) -> bool:
    """Whether a setting names a model or data of the user's own."""
    return any(_names_own(_parse(setting)))


def _data_of(values: Mapping[str, Any]) -> list[Any]:
    """What is named of data."""
    collect = values.get("collect") or {}
    return [values.get("sources") or [], *(collect.get(kind) or [] for kind in GIVEN)]


def _yaml() -> YAML:
    """Comments, order and quotes stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _dumped(values: Any) -> str:
    stream = io.StringIO()
    _yaml().dump(values, stream)
    return stream.getvalue()


def _names_own(overlay: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether it names a model, and whether it names data."""
    base, collect = (overlay.get(section) for section in ("base", "collect"))
    data = isinstance(collect, Mapping) and any(collect.get(kind) for kind in GIVEN)
    return isinstance(base, Mapping) and bool(base.get("model")), data


def _implied(overlay: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a named model and named data are good for only together with: they are read then."""
    model, data = map(any, zip(_names_own(overlay), _names_own(asked)))
    checkpoint = {"base": {"source": "checkpoint"}} if model else {}
    return checkpoint | ({"collect": {"source": "inbox"}} if data else {})


def with_settings(resolved: Resolved, settings: Sequence[str]) -> dict[str, Any]:
    """The values of `resolve` with `key.path=value` settings over them, as it would give them.

    Raises:
        ConfigError: an unknown key, or a value that is not allowed or that looks like a secret.
    """
    values = deepcopy(dict(resolved.values))
    _set(values, settings)
    for section, module in resolved.further.items():
        values[section] = _whole(values.get(section) or {}, section, module)
    check(values, resolved.further)
    return values


def _set(values: Any, settings: Sequence[str]) -> None:
    keys = [setting.partition("=")[0].strip() for setting in settings]
    if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
        raise ConfigError(f"--set {twice[0]} is given {keys.count(twice[0])} times; give it once")
    for setting in settings:
        _refuse_secret(setting, f"--set {setting.partition('=')[0]}")
        _merge(values, _parse(setting))


def _refuse_secrets(values: Any, key: str = "") -> None:
    """Every value goes into a commit, a lock file and the tracker."""
    if isinstance(values, Mapping | list):
        for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            _refuse_secrets(value, f"{key}.{name}" if key else str(name))
    else:
        _refuse_secret(str(values), key)


def _refuse_secret(text: str, key: str) -> None:
    kind = secret_in(text)
    if kind:
        raise ConfigError(
            f"{redacted(key)}: its value looks like a {kind}; a run is kept as a git commit, so give a secret by "
            "environment variable to the program that needs it"
        )


def check(values: Mapping[str, Any], further: Mapping[str, str]) -> None:
    """Hold values to the typed models; `further` sections are {section: stage module}.

    Raises:
        ConfigError: names every bad key, with the nearest known name.
    """
    from tasks.config.params import with_sections

    kind = with_sections(further)
    try:
        kind.parse(values, "")
    except ConfigError as error:
        raise ConfigError("\n".join(hinted(line, values, further) for line in str(error).splitlines())) from None


def whole(resolved: Resolved) -> dict[str, Any]:
    """All settings of a run, with the defaults of every key that nobody gave."""
    from tasks.config.params import with_sections

    found: dict[str, Any] = (
        with_sections(resolved.further).parse(resolved.values, "").model_dump(mode="json", by_alias=True)
    )
    return found


def _sections(dvc_yaml: Path) -> dict[str, str]:
    return further_sections(read_yaml(dvc_yaml)) if dvc_yaml.exists() else {}


def _whole(values: Mapping[str, Any], section: str, module: str) -> dict[str, Any]:
    """A section that only this graph has, with the defaults of its module for every key that is not given."""
    from tasks.config.params import with_sections

    typed = with_sections({section: module}).parse({section: values}, "")
    whole: dict[str, Any] = typed.model_dump(mode="json", by_alias=True)[section]
    return whole


def names(root: Path) -> list[str]:
    """Profiles of a checkout."""
    folder = root / "profiles"
    found = {path.stem for path in folder.glob("*.yaml")} | {path.parent.name for path in folder.glob("*/params.yaml")}
    return sorted(found)


def _profile(root: Path, name: str, above: tuple[str, ...] = ()) -> tuple[dict[str, Any], Path | None]:
    """A profile and its graph; one that `extends` another lies over that one, and has its graph."""
    for path in (root / "profiles" / f"{name}.yaml", root / "profiles" / name / "params.yaml"):
        if name in names(root) and path.exists():
            overlay, graph = read_yaml(path), root / "profiles" / name / "dvc.yaml"
            other = overlay.pop("extends", None)
            if other is None:
                return overlay, graph if graph.exists() else None
            if other in (name, *above):
                raise ConfigError(f"{path}: extends {other}, which extends it")
            below, its_graph = _profile(root, str(other), (*above, name))
            below.pop("registry", None)
            _merge(below, overlay)
            return below, graph if graph.exists() else its_graph
    near = get_close_matches(name, names(root), n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(names(root)) or 'none'}"
    raise ConfigError(f"--profile {name}: no such profile; {hint}")


def _parse(setting: str) -> dict[str, Any]:
    """`rl.kl_coef=5e-3` as nested mappings; the value is read as YAML."""
    key, sign, text = setting.partition("=")
    keys = key.strip().split(".")
    if not sign or not all(keys):
        raise ConfigError(f"--set {setting}: expected key.path=value, for example --set rl.kl_coef=0.05")
    try:
        value = YAML(typ="safe").load(text)
    except Exception:
        raise ConfigError(f"--set {setting}: `{text}` is not readable as YAML") from None
    if isinstance(value, Mapping) and not value:
        raise ConfigError(f"--set {setting}: sets nothing; expected --set {key}.NAME=VALUE or '{key}={{NAME: VALUE}}'")
    for name in reversed(keys):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def _merge(values: Any, overlay: Mapping[str, Any]) -> None:
    """Write an overlay in place: mappings key by key, everything else as a whole."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            _merge(values[key], value)
        else:
            values[key] = value
