import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runner.errors import ModelRefused
from runner.models.sandbox import Limits, Sandbox, SandboxFailure

HERE = str(Path(__file__).parent)
SERVICE = "services:run"


@pytest.fixture(scope="module")
def sandbox():
    child = Sandbox(SERVICE, readable=[HERE])
    yield child
    child.close()


def do(sandbox, code, **given):
    return sandbox.ask({"code": code, **given})[0]["result"]


def test_the_layers_that_hold_are_named(sandbox):
    assert "seccomp" in sandbox.layers
    assert any(layer.startswith("landlock") for layer in sandbox.layers)


LIBC = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\ndef check(r):\n  if r == -1: raise OSError(ctypes.get_errno(), 'denied')\n"
FORBIDDEN = {
    "read a file": "open(header['secret'])",
    "read by descriptor path": "open('/proc/self/root' + header['secret'])",
    "list a folder": "os.listdir(header['folder'])",
    "list the root": "os.listdir('/')",
    "read passwd": "open('/etc/passwd')",
    "read its own environment": "open('/proc/self/environ')",
    "read the parent's environment": "open(f'/proc/{os.getppid()}/environ')",
    "read the parent's memory": "open(f'/proc/{os.getppid()}/mem')",
    "write a file": "open(header['folder'] + '/marker', 'w')",
    "append to a library": "import json; open(json.__file__, 'a')",
    "write to shared memory": "open('/dev/shm/marker', 'w')",
    "unnamed file": "os.close(os.open(header['folder'], os.O_TMPFILE | os.O_RDWR))",
    "make a folder": "os.mkdir(header['folder'] + '/marker')",
    "remove": "os.unlink(header['secret'])",
    "rename": "os.rename(header['secret'], header['folder'] + '/marker')",
    "truncate": "os.truncate(header['secret'], 0)",
    "change rights": "os.chmod(header['secret'], 0o777)",
    "symbolic link": "os.symlink('/etc/passwd', header['folder'] + '/marker')",
    "hard link": "os.link(header['secret'], header['folder'] + '/marker')",
    "named pipe": "os.mkfifo(header['folder'] + '/marker')",
    "change times": "os.utime(header['secret'])",
    "attribute": "os.setxattr(header['secret'], 'user.x', b'1')",
    "connect": "import socket; socket.create_connection(('127.0.0.1', header['port']), 2)",
    "datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "local socket": "import socket; socket.socket(socket.AF_UNIX)",
    "pair of sockets": "import socket; socket.socketpair()",
    "look up a name": "import socket; socket.getaddrinfo('localhost', 80)",
    "fork": "os.fork()",
    "run a program": "os.execv('/bin/true', ['true'])",
    "spawn a program": "import subprocess; subprocess.run(['/bin/true'])",
    "run from memory": "os.memfd_create('x')",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "signal itself": "os.kill(os.getpid(), 15)",
    "handle of the parent": "os.pidfd_open(os.getppid())",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
    "limit of the parent": "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (9, 9))",
    "own the parent's signals": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "change identity": "os.setuid(1)",
    "change priority of signals": "import fcntl; fcntl.fcntl(0, 10, 9)",
    "trace": LIBC + "check(libc.ptrace(16, os.getppid(), 0, 0))",
    "read other memory": LIBC + "check(libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0))",
    "new name space": LIBC + "check(libc.unshare(0x10000000))",
    "mount": LIBC + "check(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "push input to a terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
    "set flags of a file": "import fcntl, json; fcntl.ioctl(open(json.__file__), 0x40086602, b'\\0' * 8)",
    "change root": "os.chroot('/')",
    "outlive the parent": LIBC + "check(libc.prctl(1, 0, 0, 0, 0))",
    "be looked into": LIBC + "check(libc.prctl(4, 1, 0, 0, 0))",
    "io_uring": LIBC + "check(libc.syscall(425, 8, None))",
    "open with hidden flags": LIBC + "check(libc.syscall(437, -100, header['secret'].encode(), None, 0))",
    "clone with hidden flags": LIBC + "check(libc.syscall(435, None, 0))",
    "kernel program": LIBC + "check(libc.syscall(321, 0, None, 0))",
    "keys": LIBC + "check(libc.syscall(250, 0, 0, 0))",
    "shared segment": LIBC + "check(libc.shmget(0, 4096, 0o1600))",
    "a call from the future": LIBC + "check(libc.syscall(900))",
    "a call of the other table": LIBC + "check(libc.syscall(0x40000000 + 41, 2, 1, 0))",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_it_cannot(what, sandbox, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = {"secret": str(secret), "folder": str(tmp_path), "port": server.getsockname()[1]}
        code = "\n".join(["try:", *(f"  {line}" for line in FORBIDDEN[what].split("\n")), "except (OSError, ValueError):", "  result = 'refused'"])  # fmt: skip
        assert do(sandbox, code, **given) == "'refused'"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert secret.read_text() == "a secret"


def test_the_same_deeds_work_outside(tmp_path):
    """Else the test above would prove nothing: most of these succeed in a process that is not confined."""
    (tmp_path / "secret").write_text("a secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        header = {"secret": str(tmp_path / "secret"), "folder": str(tmp_path), "port": server.getsockname()[1]}
        harmless = (
            "read a file", "read by descriptor path", "list a folder", "write a file", "connect", "datagram",
            "local socket", "pair of sockets", "look up a name", "spawn a program", "run from memory", "change times",
            "handle of the parent", "change rights", "shared segment", "unnamed file",
        )  # fmt: skip
        for what in harmless:
            exec(FORBIDDEN[what], {"os": os, "header": header})
    assert (tmp_path / "marker").exists()


def test_what_honest_code_needs_works(sandbox):
    code = "import threading, json, decimal, time\nfound = []\nt = threading.Thread(target=lambda: found.append(1))\nt.start(); t.join()\nresult = found, len(os.urandom(4)), time.time() > 0"
    assert do(sandbox, code) == "([1], 4, True)"


def test_no_secret_and_no_descriptor_of_the_parent_reaches_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    with (tmp_path / "open").open("w"), socket.socket():
        child = Sandbox(SERVICE, readable=[HERE])
    code = "result = sorted(os.environ), [n for n in range(3, 256) if os.path.exists(f'/proc/self/fd/{n}')]\nopen_ones = []\nfor n in range(3, 256):\n  try: os.fstat(n); open_ones.append(n)\n  except OSError: pass\nresult = sorted(os.environ), len(open_ones)"
    names, count = eval(do(child, code))
    child.close()
    assert "HF_TOKEN" not in names
    assert count == 2  # the two ends of its pipes


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


PIPES = """import struct
def send(data):
  for n in range(3, 256):
    try: os.write(n, data)
    except OSError: pass
"""
ENDS = {
    "leaves": ("os._exit(3)", "exit code 3"),
    "aborts": ("os.abort()", "SIGABRT"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "sleeps for ever": ("import time; time.sleep(1e6)", "in time"),
    "loops for ever": ("while True: pass", "in time"),
    "prints garbage to the pipe": (PIPES + "send(b'\\xff' * 99)", "at most 0 were expected"),
    "announces too much": (PIPES + "send(struct.pack('<IQ', 2, 1 << 60) + b'{}')", "at most 0 were expected"),
    "announces a long header": (PIPES + "send(struct.pack('<IQ', 1 << 31, 0))", "no reply"),
    "sends no object": (PIPES + "send(struct.pack('<IQ', 2, 0) + b'[]')", "no JSON object"),
    "sends deep JSON": (PIPES + "send(struct.pack('<IQ', 50000, 0) + b'[' * 50000)", "no reply"),
    "sends bytes that are no text": (PIPES + "send(struct.pack('<IQ', 2, 0) + b'\\xff\\xff')", "no reply"),
    "sends half a reply": (PIPES + "send(struct.pack('<IQ', 9, 0) + b'{'); os._exit(0)", "exit code 0"),
    "closes its pipes": ("os.closerange(3, 256); import time; time.sleep(99)", "closed its pipe"),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
def test_an_end_is_one_clear_error_and_leaves_no_process(how):
    code, said = ENDS[how]
    child = Sandbox(SERVICE, readable=[HERE])
    pid = int(do(child, "result = os.getpid()"))
    started = time.monotonic()
    with pytest.raises(SandboxFailure, match=said) as caught:
        child.ask({"code": code}, seconds=1.0)
    assert time.monotonic() - started < 8
    assert "\n" not in caught.value.message
    assert gone(pid)
    assert not child.alive
    with pytest.raises(SandboxFailure, match="has ended"):
        child.ask({"code": ""})


def test_what_it_prints_goes_nowhere(sandbox, capfd):
    assert do(sandbox, "print('x' * 100000); import sys; sys.stderr.write('y'); result = 1") == "1"
    assert capfd.readouterr() == ("", "")


def test_an_error_of_its_code_is_one_line_without_control_characters(sandbox):
    with pytest.raises(ModelRefused) as caught:
        do(sandbox, "raise ValueError('\\x1b[2Jfake\\nerror: all is well' + 'x' * 10000)")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 520
    assert sandbox.alive


def test_memory_is_limited():
    child = Sandbox(SERVICE, readable=[HERE], limits=Limits(memory=256 << 20))
    assert do(child, "x = bytearray(64 << 20); result = len(x)") == str(64 << 20)
    with pytest.raises(ModelRefused, match="MemoryError"):
        do(child, "x = bytearray(100 << 30)")
    with pytest.raises(ModelRefused, match=r"MemoryError|Cannot allocate"):
        do(child, "import mmap; x = mmap.mmap(-1, 1 << 30)")
    child.close()


def test_processor_time_is_limited():
    child = Sandbox(SERVICE, readable=[HERE], limits=Limits(cpu_seconds=1))
    with pytest.raises(SandboxFailure, match=r"SIGKILL|SIGXCPU"):
        child.ask(
            {"code": "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"}, seconds=20
        )


def test_a_large_input_reaches_it_and_a_deaf_child_does_not_hang_the_parent():
    child = Sandbox(SERVICE, readable=[HERE])
    child.ask({"code": "result = 1"}, b"\1" * (8 << 20))
    code = "import threading, time; time.sleep(1e6)"
    with pytest.raises(SandboxFailure):
        child.ask({"code": code}, seconds=0.5)
    deaf = Sandbox(SERVICE, readable=[HERE])
    deaf.ask(
        {"code": "import os as o, time; answer = o.write; o.write = lambda d, b: (answer(d, b), time.sleep(9))[0]"}
    )
    with pytest.raises(SandboxFailure, match="did not take its input"):
        deaf.ask({"code": ""}, b"\1" * (8 << 20), seconds=0.5)


def test_the_thread_that_started_it_may_end():
    made = []
    thread = threading.Thread(target=lambda: made.append(Sandbox(SERVICE, readable=[HERE])))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert do(made[0], "result = 7") == "7"
    made[0].close()
    made[0].close()


def test_it_dies_with_its_parent():
    code = (
        "import os, sys, time; from runner.models.sandbox import Sandbox\n"
        f"s = Sandbox({SERVICE!r}, readable=[{HERE!r}])\n"
        "print(s.ask({'code': 'result = os.getpid()'})[0]['result'], flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    pid = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    deadline = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pid.isdigit()
    assert gone(pid)


def test_where_files_cannot_be_confined_nothing_is_started():
    """A kernel without Landlock, made by a filter that says so."""
    code = (
        "import ctypes, os, platform; from runner.models.sandbox import Sandbox, seccomp\n"
        "libc = ctypes.CDLL(None); libc.prctl(38, 1, 0, 0, 0)\n"
        "here = seccomp.MACHINES[platform.machine()]\n"
        "assert seccomp.install(libc, seccomp.Machine(here.audit, (444, 445, 446), {'fcntl': 999}), os.getpid())\n"
        f"Sandbox({SERVICE!r}, readable=[{HERE!r}])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot confine the model's process: no files but its own cannot be had" in shown.stderr


def test_a_service_that_cannot_be_imported_is_one_clear_error():
    with pytest.raises(ModelRefused, match="nosuch"):
        Sandbox("nosuch:serve")
