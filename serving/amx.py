"""Permission to use the AMX tiles of recent Intel CPUs, without which vLLM's attention dies of SIGILL on them.

The kernel grants it per process and forgets it at exec. vLLM 0.32 sees the tiles and uses them but asks for nothing;
oneDNN does ask, but only once a matrix is large enough for it, so small models crash at their first token. Knows
nothing about models.
"""

import ctypes
import platform
import sys

_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


def allow_amx() -> bool:
    """Ask for the tiles for this process and its children. `False` where there are none or they are refused."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0)
