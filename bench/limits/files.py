"""DVC: a stage output of many small files, and beside it the same bytes in a few, from the first hash to the remote."""

import os
import shutil
import subprocess
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from bench.limits.clock import Clock
from bench.limits.record import Point, programs
from bench.speed.store import ROOT
from flows import dvc
from flows.workspace import git

BUILD = ROOT / "build/limits"
FILE, FEW = 2048, 4
"""Bytes of a small file, about three rows; and in how many files the same bytes are for contrast."""
STAGE = "stages:\n  make:\n    cmd: 'true'\n    outs: [data/out]\n"


def installed() -> dict[str, str]:
    return programs("dvc", "dvc-data")


def files(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By files in the folder."""
    for size in sorted(sizes):
        try:
            yield size, _many(size) | _few(size)
        finally:
            shutil.rmtree(BUILD / "dvc", ignore_errors=True)


def _many(size: int) -> Point:
    root = _project(BUILD / "dvc/many")
    for number in range(size):
        _write(root / f"data/out/{number // 1000:04d}/{number % 1000:03d}.jsonl", FILE)
    return _measured(root) | {"listing, bytes": [float(_listing(root))]}


def _few(size: int) -> Point:
    root = _project(BUILD / "dvc/few")
    for number in range(FEW):
        _write(root / f"data/out/{number}.jsonl", size * FILE // FEW)
    found = _measured(root)
    return {f"{name}, {FEW} files": values for name, values in found.items()} | {"in all, bytes": [float(size * FILE)]}


def _project(root: Path) -> Path:
    """With the project's own settings of DVC, and a remote that is a folder."""
    shutil.rmtree(root, ignore_errors=True)
    (root / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
    (root / "dvc.yaml").write_text(STAGE)
    git(root, "init", "-q")
    _dvc(root, "remote", "add", "-q", "--default", "near", str(root / "remote"))
    return root


def _measured(root: Path) -> Point:
    clock = Clock()
    found = {"first commit": [clock.once(partial(_dvc, root, "commit", "--force", "make"))]}
    shutil.rmtree(root / "site")  # where DVC remembers what it has hashed
    found["status, nothing remembered"] = [clock.once(partial(_dvc, root, "status"))]
    found["status, remembered"] = clock.each(partial(_dvc, root, "status"), blocks=2)
    return found | {"push": [clock.once(partial(_dvc, root, "push"))]}


def _dvc(root: Path, *arguments: str) -> None:
    environ = dvc.environ() | {"DVC_SITE_CACHE_DIR": str(root / "site")}
    subprocess.run([dvc.program(), *arguments], cwd=root, env=environ, check=True, capture_output=True)


def _listing(root: Path) -> int:
    """Bytes of the `.dir` object."""
    return sum(path.stat().st_size for path in (root / ".dvc/cache/files/md5").glob("*/*.dir"))


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
