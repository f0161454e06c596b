"""Which project this is, where several share a server."""

import json
import math
import secrets
from pathlib import Path

from flows import guards
from tasks.journal import home
from tasks.tracking.runs import write_json_atomically


def project_id(root: Path) -> str:
    """Eight hex digits that stay; a `.preflow` that came along with a copy of the checkout gets others."""
    path = home(root) / "project.json"
    with guards.held(path.with_suffix(".lock"), "preflow", wait=math.inf):
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["home"] == str(home(root)):
                return str(known["id"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        fresh = secrets.token_hex(4)
        write_json_atomically(path, {"id": fresh, "home": str(home(root))})
    return fresh
