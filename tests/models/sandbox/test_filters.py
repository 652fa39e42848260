"""The filter of system calls, judged by an interpreter of its own, for both processors."""

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.models.sandbox import landlock
from runner.models.sandbox.seccomp import MACHINES, program

PID = 4242
ALLOW = 0x7FFF0000
HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}
# What must be refused, by name (seccomp(2), syscalls(2)).
REFUSED = re.findall(
    r"\w+",
    """
socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg execve execveat fork vfork ptrace
process_vm_readv process_vm_writev kill tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd pidfd_send_signal
kcmp unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
swapon swapoff reboot kexec_load kexec_file_load init_module finit_module delete_module acct quotactl quotactl_fd bpf
perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register io_setup io_submit keyctl add_key request_key
memfd_create memfd_secret shmget shmat shmctl semget msgget mq_open mq_unlink creat truncate ftruncate rename renameat
renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir mknod mknodat chmod fchmod fchmodat chown
lchown fchown fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr utime utimes utimensat
futimesat fallocate open_by_handle_at name_to_handle_at fanotify_init inotify_init1 setuid setgid setreuid setregid
setresuid setresgid setgroups setfsuid setfsgid setsid setpgid capset sethostname setdomainname settimeofday
clock_settime adjtimex clock_adjtime syslog personality iopl ioperm modify_ldt setrlimit sched_setattr clone3
openat2
""",
)
NEEDED = re.findall(
    r"\w+",
    """
read write readv writev close mmap munmap mprotect madvise brk futex rt_sigaction rt_sigprocmask exit exit_group
getrandom sched_yield sched_getaffinity fstat lseek pread64 getdents64 clock_gettime nanosleep getpid gettid set_robust_list
rseq mremap sched_setaffinity dup pipe2 getrlimit
""",
)


def judge(code, number, arguments=(0,) * 6, audit=None):
    """Run the filter the way the kernel does."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments)
    lines = list(struct.iter_unpack("<HBBI", code))
    at, value = 0, 0
    while True:
        operation, yes, no, operand = lines[at]
        at += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
        else:
            held = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            at += yes if held else no


def numbers(machine):
    path = Path(HEADERS[machine])
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    return {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}


@pytest.fixture(params=MACHINES)
def machine(request):
    made = MACHINES[request.param]
    code = program(made, PID)
    return request.param, made, lambda number, *rest: judge(code, number, (*rest, *(0,) * (6 - len(rest))), made.audit)


def test_the_filter_refuses_by_the_kernels_own_numbers(machine):
    name, _, verdict = machine
    known = numbers(name)
    assert not [call for call in REFUSED if call in known and verdict(known[call], 0, 0, 0) == ALLOW]
    assert sum(call in known for call in REFUSED) > 95
    assert not [call for call in NEEDED if call in known and verdict(known[call]) != ALLOW]


def test_the_filter_kills_foreign_tables_and_hides_calls_it_does_not_know(machine):
    name, made, verdict = machine
    other = MACHINES["aarch64" if name == "x86_64" else "x86_64"].audit
    assert judge(program(made, PID), 0, audit=other) == 0x80000000
    assert {verdict(number) for number in (457, 900, 0x40000029, 2**32 - 1)} == {0x50000 | errno.ENOSYS}


@given(flags=st.integers(0, 2**32 - 1))
def test_the_filter_lets_files_be_opened_for_reading_only(flags):
    for made in MACHINES.values():
        verdict = judge(program(made, PID), made.special["openat"], (0, 0, flags, 0, 0, 0), made.audit)
        writing = flags & 3 or flags & 0o100 or flags & 0o1000 or flags & 0o2000
        assert (verdict == ALLOW) == (not writing)


def test_the_filter_looks_at_arguments(machine):
    _, made, verdict = machine
    special = made.special
    assert verdict(special["clone"], 0x00010000 | 0x100) == ALLOW
    assert verdict(special["clone"], 17) != ALLOW
    assert verdict(special["tgkill"], PID) == ALLOW
    assert verdict(special["tgkill"], PID + 1) != ALLOW
    assert verdict(special["prlimit64"], 0, 7, 0) == ALLOW
    assert verdict(special["prlimit64"], 0, 7, 0x1000) != ALLOW
    assert verdict(special["prlimit64"], 0, 7, 0x7F00000000) != ALLOW
    assert verdict(special["fcntl"], 0, 1) == ALLOW
    assert [verdict(special["fcntl"], 0, command) == ALLOW for command in (8, 10, 15)] == [False] * 3
    assert verdict(special["ioctl"], 0, 0x5401) == ALLOW
    assert [verdict(special["ioctl"], 0, command) == ALLOW for command in (0x5412, 0x8901, 0x40086602)] == [False] * 3
    assert verdict(special["prctl"], 15) == ALLOW
    assert [verdict(special["prctl"], option) == ALLOW for option in (1, 4)] == [False] * 2


def test_the_landlock_filter_withholds_all_that_a_kernel_knows():
    sizes = {version: len(landlock.attributes(version)) for version in range(1, 9)}
    assert sizes == {1: 8, 2: 8, 3: 8, 4: 16, 5: 16, 6: 24, 7: 24, 8: 24}
    rights = [int.from_bytes(landlock.attributes(v)[:8], "little").bit_count() for v in range(1, 7)]
    assert rights == [13, 14, 15, 15, 16, 16]
