"""The inside of the sandbox: a script of the standard library alone, started by `rlhf.sandbox`, imported by nobody.

What it gives up and why it does so before the program is read, `rlhf.sandbox` says. Numbers of system calls and the
layout of their arguments are those of the kernel's own headers.
"""

import ctypes
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

# Sockets, other processes and their memory, new processes and programs, rights of files, ways round a filter.
_DENIED = {
    "x86_64": (0xC000003E, [41, 53, 56, 57, 58, 59, 62, 90, 91, 92, 93, 94, 101, 129, 132, 155, 161, 165, 188, 189, 190,
                            200, 234, 235, 250, 260, 261, 268, 272, 280, 297, 298, 308, 310, 311, 321, 322, 323, 424,
                            425, 434, 435, 438, 452]),
    "aarch64": (0xC00000B7, [5, 6, 7, 40, 51, 52, 53, 54, 55, 88, 97, 117, 129, 130, 131, 138, 198, 199, 219, 220, 221,
                             240, 241, 268, 270, 271, 280, 281, 282, 424, 425, 434, 435, 438, 452]),
}  # fmt: skip


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
    every = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = _LIBC.syscall(_CREATE_RULESET, ctypes.byref(ctypes.c_uint64(every)), 8, 0)
    if rules < 0:
        _cannot("Landlock refused its rules")
    library = os.path.dirname(os.__file__)
    readable = [library, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"]
    allowed = [(folder, every), *((path, _READ) for path in readable), ("/dev/null", _FILE_ACCESS)]
    for path, access in allowed:
        if os.path.exists(path):
            place = os.open(path, os.O_PATH)
            if _LIBC.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", access, place), 0):
                _cannot(f"Landlock refused its rule for {path}")
            os.close(place)
    if _LIBC.syscall(_RESTRICT_SELF, rules, 0):
        _cannot("Landlock was refused")
    os.close(rules)


def _deny_calls() -> None:
    """seccomp: a filter that answers the calls of `_DENIED` with "not permitted"."""
    architecture, denied = _DENIED[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, kill, allow = 0x00050000 | 1, 0x80000000, 0x7FFF0000
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    code.append((at_least, len(denied) + 1, 0, 0x40000000))  # another ABI's numbers
    code += [(equal, len(denied) - index, 0, number) for index, number in enumerate(denied)]
    code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    program = Program(len(code), ctypes.cast(filters, ctypes.c_void_p))
    if _LIBC.prctl(_SET_SECCOMP, 2, ctypes.byref(program), 0, 0):
        _cannot("seccomp was refused")


def _shut_in(folder: str, limits: dict[str, int]) -> None:
    if sys.platform != "linux" or platform.machine() not in _DENIED:
        _cannot(f"{sys.platform} on {platform.machine()} is not known here")
    _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        _cannot("the kernel keeps no process from gaining rights")
    _close_files(folder)
    _limit(limits)
    _deny_calls()


def main() -> None:
    """Shut in, run, and say how it went on the one output that the parent reads."""
    order: dict[str, Any] = json.load(sys.stdin)
    result = os.dup(1)
    _shut_in(sys.argv[1], order["limits"])
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    names: dict[str, Any] = {"__name__": "program"}
    verdict: str = order["token"]
    try:
        exec(compile(order["program"], "program", "exec"), names)
        exec(compile(order["tests"], "tests", "exec"), names)
    except BaseException as error:
        verdict = f"raised {type(error).__name__}"
    os.write(result, verdict.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
