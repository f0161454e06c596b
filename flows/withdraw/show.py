"""What `preflow withdraw` prints."""

from rich.console import Console

from flows.lineage.facts import Facts
from flows.lineage.show import told_in_lines
from flows.withdraw.purge import Purged, lost
from flows.withdraw.withdraw import Done


def touched(facts: Facts) -> None:
    """What the rows touched, and which models to retire."""
    console = Console(highlight=False, soft_wrap=True, markup=True)
    for line in told_in_lines(facts):
        console.print(line)
    retired, versions = facts.retired(), facts.retired_versions()
    what = [_counted(len(retired), "model"), *([_counted(len(versions), "registered version")] if versions else [])]
    console.print(f"\nto retire, as trained on them or built on what was: {' and '.join(what)}")
    for one, runs in retired:
        told = f"{one.word} them; run{'s' * (len(runs) > 1)} {', '.join(runs)}"
        console.print(f"  {one.item.path} {one.item.md5[:8]}  {told}")
    for version, one in versions:
        champion = " (champion)" if version.is_champion else ""
        console.print(f"  {version.label}{champion}  {one.item.path}, {one.word} them")


def warning(facts: Facts) -> str:
    """What is asked before a purge."""
    names = lost(facts)
    labels = sorted({label for labels in names.values() for label in labels})
    champion = [version.label for version, _ in facts.versions if version.is_champion and version.label in labels]
    told = f"{_counted(len(names), 'run')} can not be made again after this ({', '.join(names)})"
    told += f", and with them {', '.join(labels)}" if labels else ""
    told += f"; {', '.join(champion)} is the champion" if champion else ""
    return f"{told}. Delete all that holds the rows?"


def done(facts: Facts, made: Done, purged: Purged | None) -> None:
    """What was made, and what was deleted."""
    if made.before == made.after:
        print(f"\ndata {made.after} held none of them already")
    else:
        print(f"\ndata {made.before or '(none)'} → {made.after}, without {facts.wanted.text}")
    if kinds := ", ".join(f"{kind} {count}" for kind, count in made.rows.items() if count):
        print(f"rows of {made.after} that the gate let through, to train and to measure on: {kinds}")
    if made.run:
        print(f"kept as refs/preflow/runs/{made.run}; `withdraw` of params.yaml says it to every later run: commit it")
    if purged:
        _purged(facts, purged)
    champions = [version for version, _ in facts.retired_versions() if version.is_champion]
    if champions:
        print(f"{champions[0].label} serves until another is promoted: `preflow run` trains one without them")


def _purged(facts: Facts, purged: Purged) -> None:
    print(f"deleted from the DVC cache: {_counted(purged.cached, 'file')} of data with the rows in it")
    for name, count in purged.remote.items():
        print(f"deleted from the DVC remote {name}: {_counted(count, 'file')} of these")
    what = "checked-out data, journals, reports and MLflow's tables"
    print(f"deleted outside of them: {_counted(len(purged.files), 'file')} with the rows in it ({what})")
    for path in purged.files:
        print(f"  {path}")
    for path in purged.needed:
        print(f"kept, as the new version of the data needs it for other rows: {path}; see the file in data/inbox")
    for what in purged.by_hand:
        print(f"for you to delete: {what}")
    for run, labels in lost(facts).items():
        print("can not be made again: " + ", ".join([f"run {run}", *labels]))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
