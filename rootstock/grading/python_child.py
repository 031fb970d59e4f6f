"""The process in which a customer's source runs. Started by path with `-I`, so it imports the standard library only.

It limits itself before it runs the first line of the source, for good: none of this can be taken back from inside.

- always: memory, CPU time, file size, open files, no core dump; an empty environment, a scratch folder, no standard
  streams (the caller sees to these three)
- Linux on x86-64, by seccomp: no sockets (hence no network), no other programs or processes, no signals to others, no
  changes of modes and owners of files
- Linux 5.13 and later, by Landlock: reads nothing but Python's own folders and the system's libraries, writes plain
  files in the scratch folder only, and sees nothing of other processes (their environment holds secrets)
- capabilities, where the service runs as root

What is not to be had: elsewhere (macOS, old kernels, a container that forbids it) the rights are those of the service.
The first answer tells which held. The disk is bounded per file, not in sum. Side channels are not closed.
"""

import ctypes
import json
import numbers
import os
import platform
import resource
import struct
import sys
import types
from pathlib import Path
from typing import Any

OPEN_FILES = 64
_MODULE = "grader"

# Of x86-64. Sockets, programs and processes, signals, other processes, namespaces, shared memory, file attributes.
_DENIED = (
    *(41, 42, 49, 425, 426, 427),
    *(57, 58, 59, 322),
    *(62, 129, 200, 234, 297, 424),
    *(101, 310, 311, 312, 434, 438, 440, 141, 142, 144, 203, 251, 256, 279, 314),
    *(155, 161, 165, 166, 272, 308, 248, 249, 250, 298, 321, 323),
    *(29, 30, 31, 64, 68, 240),
    *(90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452),
)
_CLONE, _CLONE3, _PRLIMIT, _FCNTL, _IOCTL = 56, 435, 302, 72, 16
_CLONE_THREAD = 0x10000
_SET_OWNER = {_FCNTL: (8, 15), _IOCTL: (0x8901, 0x8902)}
"""Call -> second arguments with which it would have signals sent to another process."""

_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ARCH_X86_64 = 0xC000003E

_READ = 1 << 2 | 1 << 3  # files and folders
_PLAIN_FILES = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 14  # write, read, list, remove, make, truncate
_FILE_RIGHTS = 1 << 1 | 1 << 2 | 1 << 14
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/dev/null")
_FACTS = ("/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu")


def main() -> None:
    """Read the source, limit ourselves, then answer one request per line until the other side is gone."""
    channel, memory, cpu_seconds, file_bytes = (int(word) for word in sys.argv[1:])
    requests, answers = os.fdopen(channel, "rb"), os.fdopen(os.dup(channel), "wb")
    source = json.loads(requests.readline())
    _limit(memory, cpu_seconds, file_bytes)
    held = confine(Path.cwd())
    module = types.ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    try:
        exec(compile(source, _MODULE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what this process is for
        hello: dict[str, Any] = {"held": held}
    except BaseException as error:
        hello = {"held": held, "error": _described(error)}
    _send(answers, hello)
    for line in requests:
        request = json.loads(line)
        _send(answers, {"id": request["id"], **_graded(module, request["sample"], request["item"])})


def _graded(module: types.ModuleType, sample: Any, item: Any) -> dict[str, Any]:
    try:
        value = module.grade(sample, item)
        number = isinstance(value, numbers.Real) or type(value).__name__ == "Decimal"
        if isinstance(value, bool) or not number:  # numpy's bool is no Real
            return {"error": f"'grade' returned a {type(value).__name__}, not a number."}
        return {"value": float(value)}
    except BaseException as error:
        return {"error": _described(error)}


def _described(error: BaseException) -> str:
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _MODULE:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    where = f" (line {line})" if line is not None else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _send(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _limit(memory: int, cpu_seconds: int, file_bytes: int) -> None:
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_AS, memory),
    ]
    for which, most in limits:
        try:
            hard = resource.getrlimit(which)[1]
            new = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (new, new))
        except (OSError, ValueError):  # macOS has no limit of the address space
            continue


def confine(scratch: Path) -> dict[str, bool]:
    """Give up all rights that this platform lets us give up; says which guards hold."""
    held = {"files": False, "network": False, "processes": False}
    if sys.platform != "linux":
        return held
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), ctypes.byref((ctypes.c_uint32 * 6)()))
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS, the condition of both that follow
        return held
    held["files"] = _landlock(libc, scratch)
    held["network"] = held["processes"] = _seccomp(libc)
    return held


def _landlock(libc: Any, scratch: Path) -> bool:
    abi = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    # TCP since 4; signals and abstract sockets since 6.
    attributes = struct.pack("QQQ", rights, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = libc.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    reads = {*_SYSTEM, *_FACTS, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    for path in sorted(reads - {"/"}):
        _permit(libc, rules, path, _READ & rights)
    _permit(libc, rules, str(scratch), _PLAIN_FILES & rights)
    done = bool(libc.syscall(446, rules, 0) == 0)
    os.close(rules)
    return done


def _permit(libc: Any, rules: int, path: str, rights: int) -> None:
    try:
        folder = os.open(path, 0o10000000 | os.O_CLOEXEC)  # O_PATH
    except OSError:
        return
    if not Path(path).is_dir():
        rights &= _FILE_RIGHTS
    libc.syscall(445, rules, 1, struct.pack("=Qi", rights, folder), 0)
    os.close(folder)


def _seccomp(libc: Any) -> bool:
    if platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return False
    code = _filter()
    program = b"".join(struct.pack("HBBI", *step) for step in code)
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(code), ctypes.addressof(kept))
    return bool(libc.prctl(22, 2, ctypes.c_char_p(described), 0, 0) == 0)


def _filter() -> list[tuple[int, int, int, int]]:
    """A program for the kernel: (operation, steps to skip if true, if false, operand)."""
    steps = [
        (_LOAD, 0, 0, 4),
        *((_EQUAL, 1, 0, _ARCH_X86_64), (_RETURN, 0, 0, _KILL)),
        (_LOAD, 0, 0, 0),
        *((_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _EPERM)),  # the x32 names of the same calls
        *((_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS)),  # its flags are out of reach; libc then uses clone
        *((_EQUAL, 0, 4, _CLONE), (_LOAD, 0, 0, 16), (_ANY_BIT, 1, 0, _CLONE_THREAD)),
        *((_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)),
        *((_EQUAL, 0, 4, _PRLIMIT), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0)),
        *((_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)),
    ]
    for call, (first, second) in _SET_OWNER.items():
        steps += [(_EQUAL, 0, 5, call), (_LOAD, 0, 0, 24), (_EQUAL, 1, 0, first), (_EQUAL, 0, 1, second)]
        steps += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    for call in _DENIED:
        steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _EPERM)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


if __name__ == "__main__":
    main()
