"""What a first run would wait for, made by the set-up: the database of Prefect's server, whose migrations take seconds.

python -m flows.first
"""

import os
import subprocess
import sys
from pathlib import Path

from flows import server
from tasks.journal import home


def main(root: Path) -> None:
    """Make it, or bring it up to date; not where a server is up or the user has one, which see to it themselves.

    Raises:
        CalledProcessError: Prefect could not; its server tries again, and says in its log what is wrong.
    """
    if server.configured() or server.running(root):
        return
    (home(root) / "prefect").mkdir(parents=True, exist_ok=True)
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(upgrade, cwd=root, env={**os.environ, **server.environ(root, "")}, check=True)


if __name__ == "__main__":
    main(Path.cwd())
