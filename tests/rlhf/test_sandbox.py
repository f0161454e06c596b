"""Programs that try to get out, to stay, to take too much, or to say that they passed."""

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rlhf import sandbox, sandbox_child
from rlhf.errors import PreflowError
from rlhf.sandbox import Limits, Outcome, run

ROOT = Path(__file__).parents[2]
QUICK = Limits(seconds=1)
LIBC = "import ctypes, fcntl, os, resource, signal; libc = ctypes.CDLL(None); "


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
        # processes of the same user: their limits, priority, processors; signals to them by way of a file
        LIBC + "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
        LIBC + "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        LIBC + "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
        LIBC + "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        LIBC + "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, signal.SIGKILL)",
        LIBC + "fcntl.fcntl(os.pipe()[0], 15, bytes(8))",  # F_SETOWN_EX
        LIBC + "os.killpg(0, 0)",
        LIBC + "os.pidfd_open(os.getppid())",
        LIBC + "os.posix_spawn('/bin/true', ['true'], {})",
        LIBC + "os.forkpty()",
        LIBC + "os.setpgid(0, 0)",
        LIBC + "assert libc.prctl(1, 0, 0, 0, 0) == 0",  # to outlive us
        LIBC + "os.readlink(f'/proc/{os.getppid()}/exe')",
        "open('/proc/self/environ').read()",
        # what is shared and stays: memory, queues, semaphores, keys, timers
        LIBC + "assert libc.shmget(0, 4096, 0o1600) >= 0",
        LIBC + "assert libc.msgget(0, 0o1600) >= 0",
        LIBC + "assert libc.semget(0, 1, 0o1600) >= 0",
        LIBC + "assert libc.mq_open(b'/preflow', 0o102, 0o600, None) >= 0",
        LIBC + "assert libc.syscall(248, b'user', b'preflow', b'x', 1, -3) >= 0",  # add_key on x86-64
        LIBC + "assert libc.timer_create(0, None, ctypes.create_string_buffer(8)) == 0",
        # sockets that need no network, and calls that get round a filter
        "import socket; socket.socket(socket.AF_UNIX).bind('\\0preflow')",
        LIBC + "assert libc.syscall(425, 4, ctypes.create_string_buffer(120)) >= 0",  # io_uring_setup
        LIBC + "assert libc.syscall(0x40000000 + 39) > 0",  # getpid as x32
        # files: other ways to empty, link, mark or make them
        LIBC + "assert libc.creat(b'../beside', 0o600) >= 0",
        LIBC + "os.open('/etc/passwd', 3)",  # to neither read nor write
        LIBC + "os.listdir('..')",
        LIBC + "os.link('/usr/lib/os-release', 'a')",
        LIBC + "os.mkfifo('a')",
        LIBC + "os.mknod('a')",
        LIBC + "os.mkdir('a')",
        LIBC + "os.setxattr('.', 'user.x', b'y')",
        LIBC + "os.memfd_create('a')",
        LIBC + "fcntl.ioctl(open('a', 'w'), 0x40086602, bytes([16] + [0] * 7))",  # nobody could remove it
        LIBC + "os.chdir('/'); open('tmp/evil', 'w')",
        "import numpy",
        "x = ' ' * 10**10",
        "f = open('a', 'wb')\nfor _ in range(10): f.write(b'x' * 10**6)",
        "files = [open('a', 'w') for _ in range(100)]",
        "for number in range(100): open(str(number), 'wb').write(bytes(2**20))",
        LIBC + "resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))",
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


@pytest.mark.parametrize("landlock", ["of this kernel", "the first"])
def test_it_empties_no_file_of_ours(landlock: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Landlock itself sees to that from its third version on."""
    if landlock == "the first":
        _ask_for_version_1(monkeypatch, tmp_path)
    ours = tmp_path / "ours"
    ours.write_text("kept")
    for attempt in (
        f"os.truncate({str(ours)!r}, 0)",
        f"os.open({str(ours)!r}, os.O_RDONLY | os.O_TRUNC)",
        f"os.open({str(ours)!r}, os.O_WRONLY | os.O_TRUNC)",
        f"os.open({str(ours)!r}, 3 | os.O_TRUNC)",
        f"assert libc.open({str(ours).encode()!r}, 0o1003) >= 0",
        f"assert libc.syscall(2, {str(ours).encode()!r}, 0o1003, 0) >= 0",  # open on x86-64
        f"assert libc.syscall(437, -100, {str(ours).encode()!r}, (ctypes.c_uint64 * 3)(0o1003), 24) >= 0",  # openat2
    ):
        assert run(LIBC + attempt, "").reason in ("PermissionError", "AssertionError")
    assert ours.read_text() == "kept"
    assert run("open('a', 'w').write('x'); open('a', 'w').close()", "assert not open('a').read()").passed  # its own


def _ask_for_version_1(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the child take this kernel for one of the time when Landlock was new."""
    asked = "_LIBC.syscall(_CREATE_RULESET, None, 0, 1)"
    source = Path(sandbox_child.__file__).read_text("utf-8")
    assert source.count(asked) == 1
    (folder / "child.py").write_text(source.replace(asked, "1"), "utf-8")
    monkeypatch.setattr(sandbox_child, "__file__", str(folder / "child.py"))


def test_what_a_program_needs_of_the_kernel_it_has() -> None:
    for program in (
        "import tempfile; tempfile.TemporaryFile(dir='.').write(b'x'); tempfile.NamedTemporaryFile(dir='.')",
        "import os; open('a', 'w').close(); os.rename('a', 'b'); os.remove('b')",
        "import sqlite3; db = sqlite3.connect('a.db'); db.execute('create table t (x)'); db.commit()",
        "import mmap; mmap.mmap(-1, 4096)[0] = 1",
        "import secrets, time, uuid; secrets.token_hex(); uuid.uuid4(); time.sleep(0.001)",
        "import signal; signal.setitimer(signal.ITIMER_REAL, 100)",
        "import os; os.cpu_count(); os.stat('.'); os.dup(0); os.set_inheritable(0, True)",
        "import sys; sys.setrecursionlimit(10**4); f = lambda n: n and f(n - 1); f(5000)",
    ):
        assert run(program, "") == Outcome(True, "passed"), program


def test_time_is_up_for_those_who_work_and_those_who_wait() -> None:
    assert run("while True: pass", "", QUICK).reason == "time"
    assert run("import time; time.sleep(60)", "", QUICK).reason == "time"
    assert run("import threading; [lock.acquire() for lock in [threading.Lock()] * 2]", "", QUICK).reason == "time"
    deaf = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(deaf, "", QUICK) == Outcome(False, "time")
    assert run("x = 10**10**10", "", QUICK) == Outcome(False, "time")


@pytest.mark.parametrize(
    "claim",
    [
        "import os; os.write(3, b'no sandbox: none'); os._exit(3)",  # to end the training
        "import os; os.write(3, b'passed'); os._exit(0)",
        "import os; os.close(3)",
        "raise type('x' * 10**6, (Exception,), {})",
        "raise type('\\ud800', (Exception,), {})",
    ],
)
def test_what_it_says_of_itself_does_not_count(claim: str) -> None:
    outcome = run(claim, "assert False", QUICK)
    assert outcome.passed is False and len(outcome.reason) <= 100


def test_a_folder_of_empty_files_is_full_too() -> None:
    program = "for number in range(10**5): open(str(number), 'w').close()"
    assert run(program, "", Limits(folder_bytes=2**16)) == Outcome(False, "space")


def test_its_output_is_not_kept() -> None:
    assert run("import os\nwhile True: os.write(3, b'x' * 4096)", "", QUICK) == Outcome(False, "time")
    assert run("while True: print('x' * 10**6)", "", QUICK) == Outcome(False, "time")


@pytest.mark.parametrize("program", ["\0", "x = '\ud800'", "(" * 1000, "eval('-' * 10**5 + '1')", "x = " + "1" * 5000])
def test_a_text_that_is_no_program_is_wrong(program: str) -> None:
    assert run(program, "").passed is False


@pytest.mark.parametrize(
    "nest", ["for _ in range(3000): os.mkdir('a'); os.chdir('a')", "os.umask(0o777); open('a', 'w').write('x')"]
)
def test_nothing_is_left_of_it(nest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(f"import os\n{nest}", "", QUICK)
    assert not list(tmp_path.iterdir())


def test_it_ends_with_us(tmp_path: Path) -> None:
    """Also where we are killed, and it asked the kernel to live on."""
    ours = """
from rlhf import sandbox
sandbox._size = lambda folder: (folder / "begun").exists() and print("begun", flush=True) or 0
sandbox._processor = lambda process: print(process, flush=True) or (0.0, 0.0)
stay = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); open('begun', 'w').close(); time.sleep(1000)"
sandbox.run(stay, "", sandbox.Limits(seconds=1000))
"""
    about = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", ours], stdout=subprocess.PIPE, text=True, env=about) as parent:
        assert parent.stdout is not None
        process = os.pidfd_open(int(parent.stdout.readline()))
        try:
            while parent.stdout.readline() != "begun\n":
                assert parent.poll() is None
            parent.kill()
            assert select.select([process], [], [], 60)[0]
        finally:
            parent.kill()
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)


def test_what_the_machine_did_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = "import time; time.sleep(1000)"
    with monkeypatch.context() as busy:  # all its time it stood in line for a processor
        busy.setattr(sandbox, "_processor", lambda process: (0.1, 10.0**6))
        busy.setattr(sandbox, "_PATIENCE", 4)
        assert run(wait, "", QUICK) == Outcome(None, "busy")
    with monkeypatch.context() as full:  # the kernel was out of memory, and chose it
        full.setattr(sandbox, "_processor", lambda process: (0.1, 0.0 * (os.kill(process, signal.SIGKILL) or 1)))
        assert run(wait, "", QUICK) == Outcome(None, "killed")
