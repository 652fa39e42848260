"""The filter of system calls (seccomp, kernel 3.5): a small BPF program that the kernel runs before each call.

What is refused: sockets, new processes and programs, looking into other processes, signals to them, every way of
changing the file system, the kernel's less travelled interfaces, and every call newer than those known here. Files may
only be opened for reading. The program cannot follow pointers, so which files may be read is Landlock's part.
Sources: linux/filter.h, linux/seccomp.h, the system call tables of x86-64 and of arm64 (the generic table).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass

_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4
_NEWEST = 456
"""The newest call known here (futex_requeue); anything above does not exist for the child."""
_CLONE_THREAD = 0x00010000
_WRITING = 0o3 | 0o100 | 0o1000 | 0o2000
"""O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND; O_TMPFILE needs a writing mode."""
_OWNER_COMMANDS = (8, 10, 15)
"""fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX, by which a pipe would send signals to its other end."""
_IOCTL_HARMLESS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""ioctl: TCGETS and TIOCGWINSZ (is this a terminal?), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; there is no other need."""
_PRCTL_FIXED = (1, 4)
"""prctl: PR_SET_PDEATHSIG and PR_SET_DUMPABLE stay as they are."""


@dataclass(frozen=True)
class Machine:
    """What differs between processors: ``audit`` their mark in the kernel; numbers of the calls by name."""

    audit: int
    denied: tuple[int, ...]
    special: dict[str, int]


_BOTH = (
    425, 426, 427,  # io_uring: does what other calls do, unseen by the filter
    424, 434, 438, 440, 448,  # pidfd_*, process_madvise, process_mrelease
    428, 429, 430, 431, 432, 433, 442, 443,  # mounts, quotactl_fd
    447, 452,  # memfd_secret, fchmodat2
)  # fmt: skip
# The names of the numbers, line by line: sockets; programs and processes; looking into and signalling others;
# name spaces and mounts; kernel interfaces; memory that no limit counts; message queues; changes of files; identity.
_X86_64 = (
    41, 42, 43, 44, 46, 49, 50, 53, 288, 307,
    57, 58, 59, 322, 101, 310, 311, 312, 62, 200, 129, 297, 222,
    155, 161, 165, 166, 272, 308,
    103, 135, 153, 154, 156, 159, 163, 164, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176, 179, 180, 206, 209, 212, 227,
    246, 248, 249, 250, 298, 300, 303, 304, 305, 313, 320, 321, 323,
    319, 29, 30, 31, 64, 68, 240, 241,
    76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 132, 133, 188, 189, 190, 197, 198, 199, 235, 253, 258, 259,
    260, 261, 263, 264, 265, 266, 268, 280, 285, 294, 316,
    105, 106, 109, 112, 113, 114, 116, 117, 119, 122, 123, 126, 160, 314,
)  # fmt: skip
_ARM64 = (
    198, 199, 200, 201, 202, 203, 206, 211, 242, 269,
    221, 281, 117, 270, 271, 272, 129, 130, 138, 240, 107,
    39, 40, 41, 51, 97, 268,
    0, 2, 18, 42, 58, 60, 89, 92, 104, 105, 106, 112, 116, 142, 161, 162, 170, 171, 217, 218, 219, 224, 225, 241, 262,
    264, 265, 266, 273, 280, 282, 294,
    279, 180, 181, 186, 190, 194, 195, 196,
    5, 6, 7, 14, 15, 16, 26, 33, 34, 35, 36, 37, 38, 45, 46, 47, 52, 53, 54, 55, 88, 276,
    91, 143, 144, 145, 146, 147, 149, 151, 152, 154, 157, 159, 164, 274,
)  # fmt: skip
_SPECIAL_X86_64 = {
    "ioctl": 16,
    "open": 2,
    "openat": 257,
    "clone": 56,
    "fcntl": 72,
    "prctl": 157,
    "tgkill": 234,
    "prlimit64": 302,
}
_SPECIAL_ARM64 = {"ioctl": 29, "openat": 56, "clone": 220, "fcntl": 25, "prctl": 167, "tgkill": 131, "prlimit64": 261}
_MISSING = (435, 437)
"""clone3 and openat2 hide their flags behind pointers: said not to exist, so that clone and openat are used."""

MACHINES = {
    "x86_64": Machine(0xC000003E, _BOTH + _X86_64, _SPECIAL_X86_64),
    "aarch64": Machine(0xC00000B7, _BOTH + _ARM64, _SPECIAL_ARM64),
}


def program(machine: Machine, pid: int) -> bytes:
    """The filter for one process as an array of ``struct sock_filter`` (code u16, jump u8 twice, operand u32)."""
    lines = [_op(_LOAD, _ARCHITECTURE), _op(_EQUAL, machine.audit, 1, 0), _op(_RETURN, _KILL_PROCESS)]
    lines += [_op(_LOAD, _NUMBER), _op(_GREATER_EQUAL, _NEWEST + 1, 0, 1), _fail(errno.ENOSYS)]
    for number in _MISSING:
        lines += [_op(_EQUAL, number, 0, 1), _fail(errno.ENOSYS)]
    for number in machine.denied:
        lines += [_op(_EQUAL, number, 0, 1), _fail(errno.EPERM)]
    for name, number in machine.special.items():
        body = _special(name, pid)
        lines += [_op(_EQUAL, number, 0, len(body)), *body]
    return b"".join([*lines, _op(_RETURN, _ALLOW)])


def _special(name: str, pid: int) -> list[bytes]:
    """The judgement of a call that depends on its arguments; ends by returning, so nothing falls through."""
    if name in ("open", "openat"):
        return _refuse_bits(1 if name == "open" else 2, _WRITING, errno.EACCES)
    if name == "clone":  # threads, but no processes
        return [_argument(0), _op(_ANY_BIT, _CLONE_THREAD, 1, 0), _fail(errno.EPERM), _op(_RETURN, _ALLOW)]
    if name == "tgkill":  # a process may end itself, as abort() does
        return [_argument(0), _op(_EQUAL, pid, 1, 0), _fail(errno.EPERM), _op(_RETURN, _ALLOW)]
    if name == "ioctl":
        allowed = [line for value in _IOCTL_HARMLESS for line in (_op(_EQUAL, value, 0, 1), _op(_RETURN, _ALLOW))]
        return [_argument(1), *allowed, _fail(errno.ENOTTY)]
    if name == "prlimit64":  # limits may be read, not set
        pointer = [_argument(2), _op(_EQUAL, 0, 0, 2), _argument(2, high=True), _op(_EQUAL, 0, 1, 0)]
        return [*pointer, _fail(errno.EPERM), _op(_RETURN, _ALLOW)]
    where, refused = (1, _OWNER_COMMANDS) if name == "fcntl" else (0, _PRCTL_FIXED)
    lines = [_argument(where)]
    for value in refused:
        lines += [_op(_EQUAL, value, 0, 1), _fail(errno.EPERM)]
    return [*lines, _op(_RETURN, _ALLOW)]


def _refuse_bits(argument: int, bits: int, number: int) -> list[bytes]:
    return [_argument(argument), _op(_ANY_BIT, bits, 0, 1), _fail(number), _op(_RETURN, _ALLOW)]


def _argument(index: int, *, high: bool = False) -> bytes:
    """Load the lower (or upper) half of an argument; both processors are little-endian."""
    return _op(_LOAD, 16 + 8 * index + (4 if high else 0))


def _fail(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(libc: ctypes.CDLL, machine: Machine, pid: int) -> bool:
    """Filter this thread and all that it starts, for good; needs no_new_privs. False where the kernel refuses."""
    code = program(machine, pid)
    buffer = ctypes.create_string_buffer(code, len(code))
    wanted = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    set_seccomp, filter_mode = 22, 2
    return bool(libc.prctl(set_seccomp, filter_mode, ctypes.byref(wanted), 0, 0) == 0)
