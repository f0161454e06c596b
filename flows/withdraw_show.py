"""What `preflow withdraw` prints."""

from rich.console import Console

from flows.lineage_facts import Facts
from flows.lineage_show import told_in_lines
from flows.withdraw import Done
from flows.withdraw_purge import Purged, lost


def touched(facts: Facts) -> None:
    """What the rows touched, and which models to retire."""
    console = Console(highlight=False, soft_wrap=True, markup=True)
    for line in told_in_lines(facts):
        console.print(line)
    console.print(f"\nto retire: {len(facts.retired())} models")
    for one, runs in facts.retired():
        told = f"{one.word} them; run{'s' * (len(runs) > 1)} {', '.join(runs)}"
        console.print(f"  {one.item.path} {one.item.md5[:8]}  {told}")
    for version, one in facts.retired_versions():
        champion = " (champion)" if version.is_champion else ""
        console.print(f"  {version.label}{champion}  {one.item.path}, {one.word} them")
    if not facts.retired():
        console.print("  none: no model was trained on them or built on one that was")


def warning(facts: Facts) -> str:
    """What is asked before a purge."""
    names = lost(facts)
    labels = sorted({label for labels in names.values() for label in labels})
    champion = [version.label for version, _ in facts.versions if version.is_champion and version.label in labels]
    told = f"{len(names)} runs can not be made again after this ({', '.join(names)})"
    told += f", and with them {', '.join(labels)}" if labels else ""
    told += f"; {', '.join(champion)} is the champion" if champion else ""
    return f"{told}. Delete all that holds the rows?"


def done(facts: Facts, made: Done, purged: Purged | None) -> None:
    """What was made, and what was deleted."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in made.rows.items() if count)
    if made.before == made.after:
        print(f"\ndata {made.after} held none of them already: {kinds}")
    else:
        print(f"\ndata {made.before or '(none)'} → {made.after}, without {facts.wanted.text}: {kinds}")
    if made.run:
        print(f"kept as refs/preflow/runs/{made.run}; `withdraw` of params.yaml says it to every later run: commit it")
    if purged:
        _purged(facts, purged)
    champions = [version for version, _ in facts.retired_versions() if version.is_champion]
    if champions:
        print(f"{champions[0].label} serves until another is promoted: `preflow run` trains one without them")


def _purged(facts: Facts, purged: Purged) -> None:
    remotes = "".join(f", {count} of remote {name}" for name, count in purged.remote.items())
    print(f"deleted: {purged.cached} objects of the DVC cache{remotes}, {len(purged.files)} files")
    for path in purged.files:
        print(f"  {path}")
    for path in purged.needed:
        print(f"kept, as the new version of the data needs it for other rows: {path}; see the file in data/inbox")
    for what in purged.by_hand:
        print(f"for you to delete: {what}")
    for run, labels in lost(facts).items():
        print("can not be made again: " + ", ".join([f"run {run}", *labels]))
