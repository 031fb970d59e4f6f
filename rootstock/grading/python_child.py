"""The process in which a customer's source runs. Started by path with `-I`, so it imports the standard library only.

It limits itself before it runs the first line of the source, for good: none of this can be taken back from inside.

- memory, CPU time, file size, open files, no core dump; an empty environment, a scratch folder, no standard streams
  (the caller sees to these three)
- seccomp (x86-64) lets through the calls of a list and no others: none that makes sockets to anywhere (hence no
  network), starts programs or processes, signals others or changes modes and owners of files
- Landlock (Linux 5.13 and later): reads nothing but Python's own folders and the system's libraries, writes plain
  files in the scratch folder only, and sees nothing of other processes (their environment holds secrets)
- never as root: where the service is, the process becomes nobody and gives up all capabilities, save the one of reading
  where Python itself lies in a folder that nobody may enter (Landlock then still shows it no other)

Where one of these is not to be had (macOS, other processors, old kernels, a container that forbids it) the source is
refused, never run bare. The disk is bounded per file, not in sum. Side channels are not closed.
"""

import ctypes
import importlib.util
import json
import os
import platform
import resource
import struct
import sys
from pathlib import Path
from typing import Any

OPEN_FILES = 64
_NOBODY = 65534
_MAY_READ = 1 << 2  # CAP_DAC_READ_SEARCH

# Of x86-64. All else is refused.
_ALLOWED = (
    *(0, 1, 3, 8, 16, 17, 18, 19, 20, 32, 33, 40, 72, 74, 75, 76, 77, 292, 295, 296, 326, 327, 328, 436),  # descriptors
    *(2, 4, 5, 6, 21, 78, 79, 80, 81, 82, 83, 84, 85, 87, 89, 95, 137, 138, 217, 221, 257, 258, 262, 263, 264, 267),
    *(269, 285, 316, 332, 437, 439),  # to here: files and folders, as far as Landlock lets
    *(9, 10, 11, 12, 25, 26, 27, 28, 239),  # memory
    *(13, 14, 15, 34, 36, 37, 38, 127, 128, 130, 131),  # signals to itself: handlers, alarms, waiting
    *(7, 22, 23, 45, 53, 213, 232, 233, 270, 271, 281, 284, 290, 291, 293),  # pipes, pairs and waiting for them
    *(24, 35, 96, 100, 201, 202, 228, 229, 230, 273, 324, 334, 449),  # time, locks
    *(39, 63, 97, 98, 99, 102, 104, 107, 108, 110, 111, 115, 118, 120, 121, 124, 140, 143, 145, 146, 147, 160, 186),
    *(157, 158, 204, 218, 219, 309, 318),  # to here: about itself; randomness
    *(60, 231),  # its end
)
_CLONE, _CLONE3, _PRLIMIT, _FCNTL, _IOCTL, _SENDTO = 56, 435, 302, 72, 16, 44
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
    answer = _answering()
    held = confine(Path.cwd())
    if not all(held.values()):
        _send(answers, {"held": held})
        return
    hello: dict[str, Any] = {"held": held}
    try:
        module = answer.load(source)
    except BaseException as error:
        hello["error"] = answer.described(error)
    _send(answers, hello)
    for line in requests:
        request = json.loads(line)
        _send(answers, {"id": request["id"], **answer.graded(module, request["sample"], request["item"])})


def _answering() -> Any:
    """`python_answer`, which lies beside this file: packages cannot be imported by their names here."""
    found = importlib.util.spec_from_file_location("python_answer", Path(__file__).with_name("python_answer.py"))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


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
    held = {"user": False, "files": False, "network": False, "processes": False}
    if sys.platform != "linux":
        return held
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    held["user"] = _become_nobody(libc, scratch)
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS, the condition of both that follow
        return held
    held["files"] = _landlock(libc, scratch)
    held["network"] = held["processes"] = _seccomp(libc)
    return held


def _become_nobody(libc: Any, scratch: Path) -> bool:
    """Be no root from here on, without capabilities; whether that is so."""
    kept = 0
    try:
        if 0 in (os.getuid(), os.geteuid()):
            os.chown(scratch, _NOBODY, _NOBODY)
            libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: they stay permitted, and are in effect no more
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            kept = 0 if os.access(os.__file__, os.R_OK) and os.access(sys.prefix, os.R_OK | os.X_OK) else _MAY_READ
    except OSError:
        return False
    sets = (ctypes.c_uint32 * 6)(kept, kept)  # in effect, permitted; none to inherit
    done = libc.capset(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), ctypes.byref(sets)) == 0
    return bool(done) and 0 not in os.getresuid()


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
    # To the other end of a pair only (event loops wake themselves so), never to an address.
    steps += [(_EQUAL, 0, 6, _SENDTO), (_LOAD, 0, 0, 48), (_EQUAL, 0, 3, 0), (_LOAD, 0, 0, 52), (_EQUAL, 0, 1, 0)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    for call in _ALLOWED:
        steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ALLOW)]
    return [*steps, (_RETURN, 0, 0, _EPERM)]


if __name__ == "__main__":
    main()
