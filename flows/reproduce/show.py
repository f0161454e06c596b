"""What `preflow reproduce` prints: the verdict first, then what is missing, or where it differs."""

from collections.abc import Mapping
from typing import Any

from flows.machine import FACTS
from flows.reproduce.reproduce import Answer

MOST_FILES = 5


def show(answer: Answer) -> None:
    """On stdout, a line a fact."""
    print(f"{answer.name}: {_verdict(answer)}")
    print(f"commit {answer.commit[:12]}" + (f" of {answer.ref}" if answer.ref != answer.commit else ""))
    for stage, paths in answer.not_rerun.items():
        print(f"{stage} was not run again but restored: {', '.join(paths)} is not here as the run found it")
    for record in answer.outs:
        if record["state"] != "equal":
            _apart(record, answer.how)
    if answer.how == "rerun" and answer.verdict in ("byte-equal", "differs"):
        _machine(answer)
    if answer.worktree:
        print(f"worktree: {answer.worktree}")


def _verdict(answer: Answer) -> str:
    equal = sum(record["state"] == "equal" for record in answer.outs)
    stages = len({record["stage"] for record in answer.outs})
    counted = f"{equal} of {len(answer.outs)} outputs of {_several(stages)}, {answer.seconds:.0f} s"
    if answer.verdict == "failed":
        return f"the rerun failed: {answer.reason}"
    if answer.how == "restored":
        words = {"byte-equal": "byte-equal, restored", "missing": "not all there", "differs": "not the same bytes"}
        return f"{words[answer.verdict]} ({counted}, hashed against dvc.lock)"
    if answer.verdict == "byte-equal":
        lock = "; dvc.lock is the same to the last byte" if answer.lock_equal else ""
        return f"byte-equal, run again ({counted}{lock})"
    return f"differs, run again; first in {answer.first} ({counted})"


def _apart(record: Mapping[str, Any], how: str) -> None:
    if how == "restored":
        print(f"  {record['state']}: {record['path']} of {record['stage']}: {record['why']}")
        return
    if record["found"] is None:
        print(f"  {record['stage']}: {record['path']} was not made")
        return
    files = record.get("files") or []
    more = f" and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
    told = ", ".join(files[:MOST_FILES]) + more if files else "which files is not known, as the old ones are nowhere"
    print(f"  {record['stage']}: {record['path']} differs: {told}")
    numbers = record.get("metrics") or []
    known = [one for one in numbers if one["within"] is not None]
    if known:
        outside = [one["metric"] for one in known if not one["within"]]
        print(f"    {len(known) - len(outside)} of {len(known)} means that differ lie within their old 95% intervals")
        for name in outside[:MOST_FILES]:
            print(f"    outside: {name}")
    for one in [one for one in numbers if one["within"] is None][:MOST_FILES]:
        print(f"    {one['metric']}: {_number(one['a'])} → {_number(one['b'])}")


def _machine(answer: Answer) -> None:
    for fact, both in answer.machine.get("differ", {}).items():
        print(f"another {FACTS.get(fact, fact)}: {both['now']}, then {both['then']} ({', '.join(both['stages'])})")
    if answer.verdict == "differs":
        if unknown := answer.machine.get("not_recorded"):
            print(f"what machine it was made on is not recorded here for {', '.join(unknown)}")
        print("bytes are promised for the same instruction set, threads, device and package versions only")


def _several(stages: int) -> str:
    return "1 stage" if stages == 1 else f"{stages} stages"


def _number(value: Any) -> str:
    return f"{value['mean'] if isinstance(value, Mapping) else value:.6g}"
