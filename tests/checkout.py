"""The tree under test, to be run in a place of its own."""

import shutil
import subprocess
from pathlib import Path

REPO = Path(__file__).parents[1]


def copy_tree(root: Path) -> None:
    """All files of the checkout that git does not ignore, but for the lock that a run there has left."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, text=True, capture_output=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (REPO / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, root / name)
