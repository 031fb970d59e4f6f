"""What this machine's CPU can do that vLLM has to be told. Knows nothing about models."""

import ctypes
import platform
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


def allow_amx() -> bool:
    """Ask for the AMX tiles of recent Intel CPUs. `False` where there are none or they are refused.

    Without leave vLLM's attention dies of SIGILL. The kernel grants it per process, with its children, and forgets it
    at exec. vLLM 0.32 sees the tiles and uses them but asks for nothing; oneDNN does ask, but only once a matrix is
    large enough for it, so small models crash at their first token.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)


def computes_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the CPU multiplies bfloat16 itself, by what Linux tells of it. `True` where there is no such file.

    Other CPUs have to convert each number first: there vLLM 0.32 was measured to take 1.4 to 2.6 times as long in
    bfloat16 as in float32, while those that can take 0.8 times as long.
    """
    try:
        flags = {flag for line in cpuinfo.read_text("utf-8").splitlines() for flag in line.partition(":")[2].split()}
    except OSError:
        return True
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # the last one is Arm's
