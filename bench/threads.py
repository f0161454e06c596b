"""What a second thread does to a training step of the tiny model: alone, and beside one other busy process.

    python -m bench.threads    # a table, in about two minutes; on a machine of two cores, both idle

A thread that waits for the other spins (what OpenMP does unless it is told otherwise) or sleeps (OMP_WAIT_POLICY).
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from bench.page import table
from tasks.variables import ALLOCATOR

STEPS, DOCUMENTS, TOKENS = 24, 24, 33
"""Of one measurement, after as many that are not measured; and of a step, as in stage `base`."""
WAYS = {"one thread": ("1", "passive"), "two, which sleep": ("2", "passive"), "two, which spin": ("2", "active")}


def main() -> None:
    """Measure each way in a process of its own."""
    rows = []
    for beside, (name, (threads, policy)) in product((False, True), WAYS.items()):
        variables = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": policy}
        with busy() if beside else idle():
            done = subprocess.run(
                [sys.executable, "-c", "from bench.threads import measure; measure()"],
                env=variables, check=True, capture_output=True, text=True,
            )  # fmt: skip
        rows.append([name, "beside a busy process" if beside else "alone", done.stdout.strip()])
    print("\n".join(table(["threads", "", "ms a step"], rows)))


@contextmanager
def busy() -> Iterator[None]:
    """One process that computes all the time."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def idle() -> Iterator[None]:
    """None."""
    yield


def measure() -> None:
    """Print the milliseconds of a step of this process."""
    from rlhf.chat import Chat
    from rlhf.models import new_policy
    from rlhf.optimizer import OptimizerSettings
    from rlhf.supervised import fit_supervised

    words = [f"w{number}" for number in range(200)]
    policy = new_policy(
        Chat.from_words(words), 0, hidden_size=128, num_layers=2, num_heads=4, intermediate_size=384, max_tokens=256
    )
    ids = policy.chat.encode_document(" ".join(words))
    documents = [
        (ids[number % 100 :][:TOKENS], [False] + [True] * (TOKENS - 1)) for number in range(2 * STEPS * DOCUMENTS)
    ]
    times: list[float] = []
    fit_supervised(
        policy,
        documents,
        epochs=1,
        batch_size=DOCUMENTS,
        max_batch_tokens=4096,
        optimizer=OptimizerSettings(lr=1e-3, matrix_lr=1e-2, weight_decay=0.0, max_grad_norm=1.0),
        seed=0,
        name="threads",
        log=lambda *_: times.append(time.perf_counter()),
    )
    print(f"{1000 * (times[-1] - times[-1 - STEPS]) / STEPS:.0f}")


if __name__ == "__main__":
    main()
