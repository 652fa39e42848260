"""Landlock (kernel 5.13): from now on this process sees only the paths it was given, and these only for reading.

Source: linux/landlock.h and the kernel's user-space documentation of Landlock; the rights of each ABI version.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of rights on files that an ABI version can withhold (bits from 0)."""
_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def abi(libc: ctypes.CDLL) -> int:
    """Version of Landlock in this kernel; 0 where it is absent or switched off."""
    return max(0, int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))))


def attributes(version: int) -> bytes:
    """``struct landlock_ruleset_attr``: everything this version can withhold is withheld."""
    files = (1 << _FILE_RIGHTS[min(version, 5)]) - 1
    attr = struct.pack("<Q", files)
    if version >= 4:
        attr += struct.pack("<Q", _TCP)
    if version >= 6:
        attr += struct.pack("<Q", _ABSTRACT_SOCKETS_AND_SIGNALS)
    return attr


def install(libc: ctypes.CDLL, readable: Iterable[str]) -> int:
    """Confine this thread and all that it starts to reading below ``readable``; needs no_new_privs.

    Returns the ABI version that holds, 0 where nothing was confined. Paths that do not exist are left out.
    """
    version = abi(libc)
    if version == 0:
        return 0
    attr = attributes(version)
    ruleset = int(libc.syscall(_CREATE, attr, ctypes.c_size_t(len(attr)), ctypes.c_uint(0)))
    if ruleset < 0:
        return 0
    try:
        for path in readable:
            _allow(libc, ruleset, path)
        return version if libc.syscall(_RESTRICT, ruleset, ctypes.c_uint(0)) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = _READ_FILE | _READ_DIR if stat.S_ISDIR(os.fstat(place).st_mode) else _READ_FILE
        rule = struct.pack("<Qi", rights, place)
        libc.syscall(_ADD_RULE, ruleset, ctypes.c_uint(1), rule, ctypes.c_uint(0))
    finally:
        os.close(place)
