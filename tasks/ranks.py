"""A stage in several processes: this one starts them, hands on to them what it is asked, and ends as they do.

Each is `python -m tasks.<stage>` with the same arguments and torchrun's variables (RANK, WORLD_SIZE, …), so a stage can
just as well be started by torchrun, over several machines too. Here it is not, as torchrun gives processes that are
asked to stop 30 seconds, which a step may take longer than, and ends with 1 whatever they ended with.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf.errors import Preempted
from rlhf.interruption import PARENT_GONE, SAVING, STACKS
from tasks.orphans import LAUNCHER

LAST_WORDS = 1.0
"""Seconds that one which is to be killed has to say where it stands."""


def number() -> int:
    """Which of its stage's processes this is, from 0."""
    return int(os.environ.get("RANK", 0))


def wanted(inputs: Mapping[str, Any]) -> int:
    """How many processes this one is to start: none where it is one of several itself, or does the work alone."""
    training = inputs.get("training")
    return 0 if training is None or training.nproc == 1 or "RANK" in os.environ else int(training.nproc)


def added_up(cost: dict[str, float]) -> dict[str, float]:
    """What all processes of the stage spent, but for the seconds, which they spent side by side.

    All must call it, and none goes on before the last one has.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return cost
    from rlhf.distributed import group

    costs = group().everyones(cost)
    return {
        name: value if name.startswith("seconds_") else sum(one.get(name, value) for one in costs)
        for name, value in cost.items()
    }


def launch(stage: str, count: int) -> int:
    """Run the stage in `count` processes; the exit code of the first one that failed, 0 where none did.

    One that a signal ended counts as 85 where this process was asked to stop, else as 1.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def hand_on(sign: int, _: object = None) -> None:
        asked.append(sign)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(sign)

    for sign in (signal.SIGTERM, signal.SIGINT, PARENT_GONE):
        signal.signal(sign, hand_on)
    with TemporaryDirectory(prefix="preflow-") as folder:
        for environment in _environments(count, Path(folder)):
            if asked:
                break
            command = [sys.executable, "-m", f"tasks.{stage}", *sys.argv[1:]]
            ranks.append(subprocess.Popen(command, env=environment))
        return _ended(stage, ranks, asked)


def _environments(count: int, folder: Path) -> list[dict[str, str]]:
    """The variables of each process. They meet in a file, so that no port can be taken, and talk on this machine only;
    without a number of threads, each would take all cores."""
    common = {"OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    common |= os.environ
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "PREFLOW_RENDEZVOUS": f"file://{folder}/group"}
    common |= {LAUNCHER: str(os.getpid())}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _ended(stage: str, ranks: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int:
    ends: queue.Queue[tuple[int, int]] = queue.Queue()
    for rank, process in enumerate(ranks):
        threading.Thread(target=lambda rank, process: ends.put((rank, process.wait())), args=[rank, process]).start()

    def kill() -> None:
        """Those that did not end when asked: each says first where it stands, also one that is stopped."""
        stuck = [process for process in ranks if process.poll() is None]
        for process in stuck:
            process.send_signal(STACKS)
            process.send_signal(signal.SIGCONT)
        if stuck:
            time.sleep(LAST_WORDS)
        for process in ranks:
            process.kill()

    code = 0
    for _ in ranks:
        rank, ended = ends.get()
        if ended == 0 or code:
            continue
        code = ended if ended > 0 else Preempted.exit_code if asked else 1
        if ended < 0 and not asked:
            name = signal.Signals(-ended).name
            print(f"{stage}: process {rank} of {len(ranks)} was ended by {name}", file=sys.stderr, flush=True)
        for process in ranks if not asked else ():
            process.terminate()
        killer = threading.Timer(SAVING, kill)
        killer.daemon = True
        killer.start()
    return code
