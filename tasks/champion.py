"""The policy that serves, as the next run sees it: `data/champion/`, written before a run and only read by its stages.

`champion.json` names it (version, git ref, digests); `completions.jsonl` holds what it answered on the evaluation
prompts, so that every later run can score it with its own scorers, without its weights. `{"version": null}` means none.
No stage reads the registry: these two files are part of the run, so the run can be done again.

Where the evaluation prompts changed, sample the champion on them first:

    python -m tasks.champion --policy CHAMPIONS_POLICY --eval-prompts data/03_validated/eval --champion data/champion
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import PreflowError
from rlhf.records import Row, read_rows, write_json, write_rows
from tasks.config import read_yaml
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tasks.graph import digest

if TYPE_CHECKING:  # flows read champions without loading torch
    from rlhf.answers import Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """Name and origin of the policy that serves."""

    version: int
    """Version in the model registry."""
    ref: str
    """Git ref of the run that made it: code, params.yaml, dvc.yaml and dvc.lock."""
    digests: Mapping[str, str]
    """Of what its completions depend on: `evaluation_set`, `base`, `chat`, and whatever else the flow adds."""
    resampled: bool = False
    """True where its completions were sampled again after its own run, on other prompts."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The prompts and settings that all policies of a comparison share."""

    prompts: tuple[Row, ...]
    digest: str


def read_champion(folder: Path) -> Champion | None:
    """The champion of `folder`, or None where there is none.

    Raises PreflowError where the folder is torn: completions missing or not those that champion.json names.
    """
    record = json.loads((folder / "champion.json").read_text(encoding="utf-8"))
    if record["version"] is None:
        return None
    completions = folder / "completions.jsonl"
    found = digest(completions)
    if found != record.pop("completions"):
        raise PreflowError(
            f"{completions} is not what champion.json of version {record['version']} names (found {found[:16]}); "
            f"delete {folder} and start `preflow run`, which writes it again from the registry"
        )
    return Champion(**record)


def read_completions(folder: Path) -> list[Row]:
    """What the champion answered: rows as in `data/12_evaluation/completions/<policy>.jsonl`."""
    return list(read_rows(folder / "completions.jsonl"))


def write_champion(folder: Path, champion: Champion, completions: Path) -> None:
    """Write both files; champion.json, which names the other by digest, last.

    `completions` is `data/12_evaluation/completions/<candidate>.jsonl` of the run that won.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / ".completions.jsonl"
    fresh.write_bytes(completions.read_bytes())
    os.replace(fresh, folder / "completions.jsonl")
    _write_record(folder, asdict(champion) | {"completions": digest(folder / "completions.jsonl")})


def write_none(folder: Path) -> None:
    """Say that no policy serves."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, {"version": None})
    (folder / "completions.jsonl").unlink(missing_ok=True)


def digests_of(scores: Mapping[str, Any]) -> dict[str, str]:
    """The digests that go into champion.json, from the scores.json of the run that won."""
    return {"evaluation_set": scores["evaluation_set"]["digest"], "base": scores["base"], "chat": scores["chat"]}


def evaluation_set(eval_prompts: Path, config: Evaluate, generation: Generation) -> EvaluationSet:
    """The first `num_prompts` rows by id (ids are hashes, so this is a fixed random choice) and their digest.

    The digest covers the sampling settings too: completions drawn otherwise are not comparable.
    """
    rows = sorted(read_rows(eval_prompts), key=lambda row: row["id"])[: config.num_prompts]
    if len(rows) < 2:
        raise PreflowError(f"{eval_prompts} holds {len(rows)} prompts, at least 2 are needed for an interval; add some")
    settings = [config.samples_per_prompt, generation.temperature, generation.max_new_tokens]
    text = json.dumps([settings, [row["id"] for row in rows]])
    return EvaluationSet(tuple(rows), hashlib.sha256(text.encode()).hexdigest()[:16])


def drawing_of(config: Evaluate, generation: Generation, seed: int) -> "Drawing":
    """How every policy answers the evaluation prompts."""
    from rlhf.answers import Drawing
    from rlhf.seeding import derive

    return Drawing(
        group_size=config.samples_per_prompt,
        temperature=generation.temperature,
        max_new_tokens=generation.max_new_tokens,
        batch_size=generation.batch_size,
        seed=derive(seed, "evaluate"),
    )


def folder_digest(folder: Path) -> str:
    """16 hex digits over names and bytes of all files in `folder`."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise PreflowError(f"{folder} is empty or missing; run the stage that writes it")
    return digest(folder)[:16]


def chat_digest(policy: Path) -> str:
    """16 hex digits of how a policy turns messages into ids: equal digests may exchange token ids."""
    text = json.dumps([digest(policy / name) for name in ("chat.json", "tokenizer.json")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resample(
    config: Evaluate, *, generation: Generation, seed: int, policy: Path, eval_prompts: Path, champion: Path
) -> None:
    """Sample the champion's `policy` on today's evaluation prompts and rewrite its folder accordingly."""
    record = read_champion(champion)
    if record is None:
        raise PreflowError(f"{champion} names no champion (version null), so there is nothing to sample again")
    from rlhf.answers import draw, to_rows  # torch is loaded only when something is sampled
    from rlhf.models import load_policy
    from tasks.prompts import usable_prompts

    wanted = evaluation_set(eval_prompts, config, generation)
    loaded, drawing = load_policy(policy), drawing_of(config, generation, seed)
    asked, _ = usable_prompts(wanted.prompts, loaded, generation.max_new_tokens)
    prompts = [loaded.chat.encode_prompt(row["messages"]) for row in asked]
    rows = to_rows(asked, draw(loaded, prompts, drawing), draw(loaded, prompts, drawing.greedy()), {})
    fresh = champion / ".resampled.jsonl"
    write_rows(fresh, rows)
    digests = dict(record.digests) | {"evaluation_set": wanted.digest, "chat": chat_digest(policy)}
    renewed = Champion(version=record.version, ref=record.ref, digests=digests, resampled=True)
    write_champion(champion, renewed, fresh)
    fresh.unlink()


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    fresh = folder / ".champion.json"
    write_json(fresh, record)
    os.replace(fresh, folder / "champion.json")


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.champion", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", default="evaluate", help="section of params.yaml with the evaluation settings")
    for name, meaning in (
        ("policy", "model folder of the champion"),
        ("eval-prompts", "evaluation prompts of this run"),
        ("champion", "folder to rewrite"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="PATH", help=meaning)
    given = parser.parse_args()
    params = read_yaml(Path("params.yaml"))
    config = Evaluate.parse(params.get(given.params) or {}, given.params)
    resample(
        config,
        generation=Generation.parse(params.get("generation") or {}, "generation"),
        seed=int(params.get("seed", 0)),
        policy=given.policy,
        eval_prompts=given.eval_prompts,
        champion=given.champion,
    )


if __name__ == "__main__":
    try:
        _main()
    except PreflowError as error:
        print(f"champion: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
