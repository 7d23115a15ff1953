"""Leave to use the tile registers of AMX, which Linux grants a process that asks (its documentation: x86/xstate)."""

from __future__ import annotations

import ctypes

ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18  # the system call on x86-64; ARCH_REQ_XCOMP_PERM; the registers' number


def granted() -> bool:
    """Whether all threads of this process, those to come too, may use tile registers from now on."""
    return ctypes.CDLL(None, use_errno=True).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0
