"""The inside of the sandbox: a script of the standard library alone, started by `rlhf.sandbox`, imported by nobody.

What it gives up and why it does so before the program is read, `rlhf.sandbox` says. Numbers of system calls and the
layout of their arguments are those of the kernel's own headers.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_NEW_PRIVS, _SET_SECCOMP, _SET_PDEATHSIG = 38, 22, 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = 1 << 2 | 1 << 3  # read files, list folders
_FILE_ACCESS = 1 << 1 | 1 << 2  # write, read: the rights that a rule on a single file may carry
_OWN = _READ | 1 << 1 | 1 << 5 | 1 << 8  # and write, remove, make files; a deep nest of folders is hard to clear away
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # known to later versions of Landlock

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# What a program may ask of the kernel, with its number on x86-64 and on arm64: files that are open or that Landlock
# lets it open, memory, its own signals and clocks, questions. Nothing here makes a process or reaches another one.
_ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "open": (2, None), "openat": (257, 56), "stat": (4, None), "lstat": (6, None),
    "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
    "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None), "renameat": (264, 38),
    "unlink": (87, None), "unlinkat": (263, 35), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83),
    "fcntl": (72, 25), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "sendfile": (40, 71), "copy_file_range": (326, 285), "fadvise64": (221, 223), "statfs": (137, 43),
    "fstatfs": (138, 44), "umask": (95, 166),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "msync": (26, 227), "brk": (12, 214), "futex": (202, 98), "set_robust_list": (273, 99),
    "set_tid_address": (218, 96), "rseq": (334, 293), "arch_prctl": (158, None),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "alarm": (37, None), "setitimer": (38, 103),
    "getitimer": (36, 102), "pause": (34, None), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73), "sched_yield": (24, 124),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrandom": (318, 278), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_DUPLICATE = 1030  # the one command of fcntl beyond 7 that is let through; those between send signals to others
_TRUNCATES, _HOW = 0o1000, 0o3  # of the flags that open a file: 0 to read, 1 to write, 2 for both, 3 for neither


def _cannot(what: str) -> NoReturn:
    print(f"no sandbox: {what}", flush=True)
    os._exit(3)


def _limit(limits: dict[str, int]) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limits["seconds"], limits["seconds"] + 1))  # a signal first, then the end
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _close_files(folder: str) -> None:
    """Landlock: the folder to write in, the standard library and what it links to, to read; nothing else."""
    version = _LIBC.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        _cannot("the kernel has no Landlock")
    every = (1 << 13) - 1 | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    rules = _LIBC.syscall(_CREATE_RULESET, ctypes.byref(ctypes.c_uint64(every)), 8, 0)
    if rules < 0:
        _cannot("Landlock refused its rules")
    library = os.path.dirname(os.__file__)
    readable = [library, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    allowed = [(folder, _OWN | every & _TRUNCATE), *((path, _READ) for path in readable), ("/dev/null", _FILE_ACCESS)]
    for path, access in allowed:
        if os.path.exists(path):
            place = os.open(path, os.O_PATH)
            if _LIBC.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", access, place), 0):
                _cannot(f"Landlock refused its rule for {path}")
            os.close(place)
    if _LIBC.syscall(_RESTRICT_SELF, rules, 0):
        _cannot("Landlock was refused")
    os.close(rules)


def _filter() -> list[tuple[int, int, int, int]]:
    """The program of seccomp: steps (operation, jump where true, jump where false, value) over one call of the kernel.

    A file is emptied only where it is opened for writing, which Landlock answers for. Before its third version it does
    not ask whether a file that is opened to read may be emptied, and of one that is opened for neither it asks nothing.
    """
    column, architecture = _ARCHITECTURES[platform.machine()]
    numbers = {name: number for name, both in _ALLOWED.items() if (number := both[column]) is not None}
    load, equal, at_least, mask, give = 0x20, 0x15, 0x35, 0x54, 0x06
    refuse = (give, 0, 0, 0x00050000 | errno.EACCES)  # after which Python does without ioctl
    kill, allow = (give, 0, 0, 0x80000000), (give, 0, 0, 0x7FFF0000)
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), kill, (load, 0, 0, 0)]
    steps += [(equal, 0, 5, numbers["fcntl"]), (load, 0, 0, 24), (at_least, 0, 1, 8), (equal, 0, 1, _DUPLICATE)]
    steps += [allow, refuse]
    for name, flags in (("open", 24), ("openat", 32)):  # where their flags are
        if name in numbers:
            steps += [(equal, 0, 7, numbers[name]), (load, 0, 0, flags), (mask, 0, 0, _TRUNCATES | _HOW)]
            steps += [(equal, 3, 0, _TRUNCATES), (equal, 2, 0, _HOW), (equal, 1, 0, _TRUNCATES | _HOW), allow, refuse]
    steps += [(equal, len(numbers) - index, 0, number) for index, number in enumerate(numbers.values())]
    return [*steps, refuse, allow]


def _deny_calls() -> None:
    """seccomp: all calls but those of `_ALLOWED` are answered with "permission denied"."""
    code = _filter()
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    program = Program(len(code), ctypes.cast(filters, ctypes.c_void_p))
    if _LIBC.prctl(_SET_SECCOMP, 2, ctypes.byref(program), 0, 0):
        _cannot("seccomp was refused")


def _shut_in(folder: str, limits: dict[str, int], parent: int) -> None:
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        _cannot(f"{sys.platform} on {platform.machine()} is not known here")
    _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that, and nobody would end us
        os._exit(1)
    if _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        _cannot("the kernel keeps no process from gaining rights")
    _close_files(folder)
    _limit(limits)
    _deny_calls()


def main() -> None:
    """Shut in, say so, run, and say how it went on the one output that the parent reads: what is said first stays."""
    order: dict[str, Any] = json.load(sys.stdin)
    result = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    _shut_in(sys.argv[1], order["limits"], order["parent"])
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.write(result, b"ready ")
    names: dict[str, Any] = {"__name__": "program"}
    verdict: str = order["token"]
    try:
        exec(compile(order["program"], "program", "exec"), names)
        exec(compile(order["tests"], "tests", "exec"), names)
    except BaseException as error:
        verdict = f"raised {type(error).__name__[:100]}"
    os.write(result, verdict.encode(errors="replace"))
    os._exit(0)


if __name__ == "__main__":
    main()
