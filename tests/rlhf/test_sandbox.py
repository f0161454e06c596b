"""Programs that try to get out, to stay, to take too much, or to say that they passed."""

import os
import socket
from pathlib import Path

import pytest

from rlhf.errors import PreflowError
from rlhf.sandbox import Limits, run

QUICK = Limits(seconds=1)


@pytest.fixture(autouse=True)
def _needs_a_kernel_that_can() -> None:
    try:
        run("", "")
    except PreflowError as error:
        pytest.skip(str(error))


def test_a_right_program_passes_and_a_wrong_one_says_why() -> None:
    tests = "assert add(1, 2) == 3"
    assert run("import math, json, decimal\ndef add(a, b): return a + b", tests).passed
    assert run("def add(a, b): return a - b", tests).reason == "AssertionError"
    assert run("def add(", tests).reason == "SyntaxError"
    assert run("print('x' * 10**6)\ndef add(a, b): return a + b", tests).passed  # its output goes nowhere


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise KeyboardInterrupt"])
def test_leaving_early_is_not_passing(leave: str) -> None:
    assert not run(leave, "assert False").passed
    assert not run(f"def add(a, b):\n    {leave}", "assert add(1, 2) == 3").passed


@pytest.mark.parametrize(
    "attempt",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import threading; threading.Thread(target=print).start()",
        "import os; os.kill(os.getppid(), 9)",
        "import socket; socket.socket()",
        "import socket; socket.socketpair()",
        "open('/etc/passwd').read()",
        "import os; open(f'/proc/{os.getppid()}/environ').read()",
        "import os; os.listdir('/')",
        "import os; os.chmod('/tmp', 0o777)",
        "import os; os.mkdir('../beside')",
        "import os; os.symlink('/etc/passwd', 'a'); open('a').read()",
        "import ctypes; libc = ctypes.CDLL(None); assert libc.ptrace(16, 1, 0, 0) == 0",
        "import ctypes; libc = ctypes.CDLL(None); assert libc.unshare(0x10000000) == 0",
        "import numpy",
        "x = ' ' * 10**10",
        "f = open('a', 'wb')\nfor _ in range(10): f.write(b'x' * 10**6)",
        "files = [open('a', 'w') for _ in range(100)]",
    ],
)
def test_it_cannot_get_out_or_take_too_much(attempt: str) -> None:
    """Each of them runs through where nothing holds it."""
    outcome = run(attempt, "assert True", QUICK)
    assert (outcome.passed, outcome.reason) not in {(True, "passed"), (False, "time"), (False, "SyntaxError")}


def test_it_may_write_in_a_folder_of_its_own_that_goes_with_it() -> None:
    program = "import os\nopen('a', 'w').write('x')\nhere = os.getcwd()"
    assert run(program, "assert os.listdir('.') == ['a'] and here.startswith('/')").passed
    assert run("import os", "assert os.listdir('.') == []").passed  # the next one finds nothing


def test_nothing_of_ours_reaches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFLOW_TEST_SECRET", "s3cret")
    (tmp_path / "secret").write_text("s3cret")
    assert run("import os", "assert 'PREFLOW_TEST_SECRET' not in os.environ").passed
    assert run(f"open({str(tmp_path / 'secret')!r})", "").reason == "PermissionError"
    assert run(f"open({str(tmp_path / 'evil')!r}, 'w')", "").reason == "PermissionError"
    assert not (tmp_path / "evil").exists()
    with socket.socket() as ours:  # an open descriptor of ours is not its own
        ours.bind(("127.0.0.1", 0))
        number = os.dup(ours.fileno())
        assert run(f"import os; os.fstat({number})", "").reason == "OSError"
        os.close(number)


def test_time_is_up_for_those_who_work_and_those_who_wait() -> None:
    assert run("while True: pass", "", QUICK).reason == "time"
    assert run("import time; time.sleep(60)", "", QUICK).reason == "time"
