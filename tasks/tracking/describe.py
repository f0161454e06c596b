"""What a reader of the MLflow pages is told in words: descriptions in Markdown, and the tags that name things."""

import getpass
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.graph import Graph, digest
from tasks.lineage import Tree
from tasks.outcome import in_story_order
from tasks.tracking.runs import RunRecord

MEASURES = {
    "gold_reward": "gold reward",
    "held_out_reward": "held-out reward",
    "reward": "reward",
    "rule_reward": "reward by rules",
    "win_rate_vs_sft": "win rate / SFT",
    "win_rate_vs_champion": "win rate / champion",
    "kl": "KL to SFT",
    "length": "length",
    "stop_rate": "stop rate",
}
GAP = "&emsp;"  # MLflow draws tables without any space between columns
SIGNS = {"ran": "●", "cached": "○", "failed": "✗", "stopped": "■", "skipped": "·"}
MAX_CELL = 600
Facts = Mapping[str, Any]


def parent_tags(run: RunRecord) -> dict[str, str]:
    """Who, what and from which code: known when the run begins."""
    info = run.info
    known = {
        "mlflow.user": user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": info.get("command") or "preflow",
        "mlflow.source.git.commit": info.get("commit"),
        "git.commit": info.get("commit"),
        "git.ref": info.get("ref"),
        "preflow.profile": info.get("profile"),
        "preflow.by_hand": "true" if info.get("by_hand") else None,
        "prefect.flow_run": info.get("flow_run_id"),
        "params.sha256": digest(run.described / "params.yaml"),
    }
    return {name: str(value) for name, value in (known | dict(info.get("tags") or {})).items() if value}


def child_tags(graph: Graph | None, stage: str) -> dict[str, str]:
    """A sentence and the command, for the page of one stage's run; nothing where the graph is not known any more."""
    node = graph.stages.get(stage) if graph else None
    if node is None:
        return {}
    sentence = node.desc[:1].upper() + node.desc[1:]
    command = node.cmd.replace(" --", " \\\n    --")
    note = f"{sentence}.\n\n```\n{command}\n```" if sentence else f"```\n{command}\n```"
    return {"mlflow.note.content": note, "mlflow.source.name": f"python -m {_module(node.cmd)}", "mlflow.user": user()}


def ending_tags(tree: Tree) -> dict[str, str]:
    """What is known of a run when it is over."""
    gate, lock = read_out(tree, "gate.json"), tree.root / "dvc.lock"
    tags = {"dvc.lock.sha256": digest(lock)} if lock.exists() and tree.graph.stages else {}
    if gate:
        tags |= {"gate.promote": str(gate["promote"]).lower(), "gate.candidate": gate["candidate"]}
    return tags


def parent_note(
    run: RunRecord, tree: Tree, graph: Graph | None, results: Mapping[str, Facts], links: Mapping[str, str]
) -> str:
    """The page of a pipeline run: what came out, promoted or not and why, what each stage did, how to do it again.

    `tree` has the stages whose outputs there are this run's, `graph` all of them.
    """
    scores, gate = read_out(tree, "scores.json"), read_out(tree, "gate.json")
    candidate = gate["candidate"] if gate else None
    parts = [_verdict(gate)] if gate else []
    parts += [f"### Policies\n{policies(scores, candidate)}"] if scores else []
    parts += [f"### Gate\n{checks(gate)}"] if gate else []
    parts += [_stages(graph or tree.graph, results, links), _again(run)]
    return "\n\n".join(part for part in parts if part)


def cached_note(stage_note: str, origin: str | None) -> str:
    """Added for a stage that was not run."""
    where = f"made by {origin}" if origin else "made before this store began"
    return f"**Not run:** nothing it reads has changed. Its outputs were {where}.\n\n{stage_note}"


def read_out(tree: Tree, name: str) -> dict[str, Any] | None:
    """A JSON output of some stage (`scores.json`, `gate.json`), as locked; None where there is none."""
    for stage in reversed(list(tree.graph.stages.values())):
        for out in stage.outs:
            if Path(out).name == name and (tree.root / out).exists():
                found: dict[str, Any] = json.loads((tree.root / out).read_text(encoding="utf-8"))
                return found
    return None


def _verdict(gate: Facts) -> str:
    verdict = "Fit to be promoted" if gate["promote"] else "Not promoted"
    return f"### {verdict}: {gate['candidate']}\n{gate.get('reason', '')}"


def policies(scores: Facts, candidate: str | None) -> str:
    """A table of all policies with their intervals, and what it was measured with."""
    rows = {name: scores["policies"][name] for name in in_story_order(scores["policies"])}
    shown = [name for name in MEASURES if any(row.get(name) for row in rows.values())]
    head = ["policy", *(MEASURES[name] for name in shown)]
    body = []
    for name, row in rows.items():
        title = f"**{name}** ★" if name == candidate else name
        body.append([title, *(interval(row.get(measure)) for measure in shown)])
    prompts = (scores.get("evaluation_set") or {}).get("prompts")
    about = f"Means with half-widths of 95% intervals{f' over {prompts} held-out prompts' if prompts else ''}; "
    return f"{table(head, body)}\n\n{about}judge: {scores['judge']}; ★ the candidate."


def checks(gate: Facts) -> str:
    """The gate's checks, each with its value and its limit."""
    rows = [["✓" if c["passed"] else "✗", c["name"], _number(c["value"]), _number(c["limit"])] for c in gate["checks"]]
    return table(["", "check", "value", "limit"], rows)


def _stages(graph: Graph, results: Mapping[str, Facts], links: Mapping[str, str]) -> str:
    rows = []
    for name in graph.stages:
        result = results.get(name)
        if result:
            title = f"[{name}]({links[name]})" if name in links else name
            state = f"{SIGNS.get(result['state'], '')} {result['state']}"
            seconds = f"{result['seconds']:.1f} s" if result.get("seconds") else ""
            rows.append([title, state, seconds, _cell(result.get("reason") or "")])
    return f"### Stages\n{table(['stage', 'state', 'time', ''], rows)}" if rows else ""


def _again(run: RunRecord) -> str:
    ref, command = run.info.get("ref"), run.info.get("command")
    typed = f"Typed: `{command}`. " if command else ""
    return f"{typed}Code, parameters and lock: `{ref}`; again: `{_by_git(ref)}`." if ref else typed.strip()


def _by_git(ref: str) -> str:
    """The line that does a run again, in a checkout beside this one."""
    return f"git worktree add --detach ../again {ref} && make -C ../again repro"


def _cell(text: str) -> str:
    """What a cell of a table can hold of a text that may be of any form: one line, and not all of a long one."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= MAX_CELL else f"{line[:MAX_CELL]} …"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; "" without rows."""
    names, rows = list(head), list(rows)
    if not rows:
        return ""
    lines = [f"| {f'{GAP} | '.join(cells)} |" for cells in (names, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(names)}", *lines[1:]])


def interval(value: Facts | None) -> str:
    """Mean and half-width of its interval."""
    if not value:
        return "–"
    half = (value["ci_high"] - value["ci_low"]) / 2
    digits = 1 if abs(value["mean"]) >= 10 else 2
    mean = round(value["mean"], digits) + 0.0  # never "-0.00"
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def _number(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, int | float) else json.dumps(value)


def _module(cmd: str) -> str:
    words = cmd.split()
    return words[words.index("-m") + 1] if "-m" in words[:-1] else words[0]


def user() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
