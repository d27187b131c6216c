"""Programs that CRIU by itself could not save: what they hold at that moment passes, or is kept."""

import time
from collections.abc import Iterator

import pytest

from containers import PYTHON_MOUNTS, PYTHON_ROOT, Container, make_python_root, without_gap
from machine import Machine

COUNTING = """
import time
number = 0
while True:
    number += 1
    print("count", number, flush=True)
    {step}
    time.sleep(0.1)
"""
LISTENING = """
import socket
server = socket.create_server(("127.0.0.1", 7001))
"""
# What Go's net does (net/mptcpsock_linux.go): MPTCP where the kernel has it, else TCP.
LIKE_GO = """
import errno, socket
MPTCP = 262
try:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
except OSError as error:
    print("refused:", errno.errorcode[error.errno], flush=True)
    server = socket.socket()
server.bind(("127.0.0.1", 7002))
server.listen()
"""
LIKE_LIBURING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number, *words in (425, 4, ctypes.create_string_buffer(120)), (447, 0):
    print("answer:", libc.syscall(number, *words), ctypes.get_errno(), flush=True)
"""
TWO_NAMES = """
import os
file = open("{place}/first", "w+")
file.write("kept"); file.flush()
os.link("{place}/first", "{place}/second")
os.unlink("{place}/first")
"""
BEGIN_AGAIN = """
import os
if os.path.exists("{place}/second"):
    os.unlink("{place}/second")
"""
STILL_TWO = 'file.seek(0); assert file.read() == "kept" == open("{place}/second").read()'
# A client that has spoken before the server, which is late now and then, accepts it
LATE = """
import os, socket, threading, time
server = socket.socket(socket.AF_UNIX)
server.bind("/tmp/late"); server.listen(5)
def serve():
    while True:
        time.sleep(0.1)
        peer, _ = server.accept()
        assert peer.recv(9) == b"hello"
        peer.send(b"answer")
def ask():
    while True:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect("/tmp/late")
            link.send(b"hello")
            assert link.recv(9) == b"answer"
        time.sleep(0.07)
for work in serve, ask:
    threading.Thread(target=work).start()
"""
CORKED = """
import socket, threading, time
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.connect(("127.0.0.1", 9))
def cork():
    while True:
        for on in 1, 0:
            link.setsockopt(socket.IPPROTO_UDP, 1, on)
            try:
                link.send(b"half")
            except ConnectionRefusedError:
                pass
            time.sleep(0.01 if on else 0.04)
threading.Thread(target=cork).start()
"""
CLIENT = """
import socket, time
link = socket.create_connection(("127.0.0.1", 7001))
print("connected", flush=True)
time.sleep(60)
"""


@pytest.fixture
def container(machine: Machine) -> Iterator[Container]:
    make_python_root(machine)
    made = Container(machine, f"dumpable{time.monotonic_ns()}")
    yield made
    made.remove()


def start(container: Container, program: str, step: str = "", **keys: object) -> None:
    command = ["/usr/bin/python3", "-c", program + COUNTING.format(step=step)]
    if "image" not in keys:
        keys["rootfs"] = PYTHON_ROOT
    container.define(mounts=PYTHON_MOUNTS, command=command, **keys)
    container.start()
    container.wait_for_line("count 2")


def goes_on(container: Container, times: int = 1) -> str:
    """It sleeps and wakes; returns the journal."""
    for _ in range(times):
        container.stop()
        assert container.state() == "READY", container.journal()
        container.start()
        assert container.property("StatusText").startswith("restored"), container.journal()
        time.sleep(0.3)
    assert without_gap(container.numbers()), container.journal()
    return container.journal()


def tries_until_said(container: Container, words: str) -> None:
    """Sleep and wake until a dump met what passes: most do not."""
    for _ in range(30):
        if words in goes_on(container):
            return
    raise AssertionError(f"no dump of thirty met it: {words}")


def test_a_client_that_was_not_accepted_yet_costs_no_memory(container: Container) -> None:
    start(container, LISTENING, network="host")
    client = container.machine.popen("python3", "-c", CLIENT)
    assert client.stdout and client.stdout.readline() == "connected\n"
    goes_on(container)
    client.kill()


def test_a_server_that_asks_for_mptcp_gets_tcp(container: Container) -> None:
    start(container, LIKE_GO)
    assert "refused: EPROTONOSUPPORT" in goes_on(container)


def test_what_criu_cannot_save_is_not_there(container: Container) -> None:
    start(container, LIKE_LIBURING)
    text = goes_on(container)
    assert text.count("answer: -1 38\n") == 2, text


def test_who_wants_all_system_calls_gets_them(container: Container) -> None:
    start(container, LIKE_LIBURING + LIKE_GO, seccomp="unconfined")
    text = container.journal()
    assert "answer: -1" not in text and "refused" not in text, text


def test_who_never_sleeps_gets_all_system_calls(container: Container) -> None:
    start(container, LIKE_LIBURING, checkpoint={"on": []})
    assert "answer: -1" not in container.journal()


@pytest.mark.parametrize("place", ["/tmp", "/srv"])
@pytest.mark.parametrize("root", ["rootfs", "image"])
def test_an_open_file_that_has_another_name_by_now(
    container: Container, root: str, place: str
) -> None:
    program, step = (text.format(place=place) for text in (TWO_NAMES, STILL_TWO))
    start(container, program, step, **{root: PYTHON_ROOT})
    goes_on(container, 2)
    inside = container.machine.run("runc", "exec", container.name, "ls", place).stdout
    assert "second" in inside and "link_remap" not in inside


def test_what_an_image_that_was_never_woken_has_left_is_in_nobodys_way(
    container: Container,
) -> None:
    program, step = (text.format(place="/srv") for text in (BEGIN_AGAIN + TWO_NAMES, STILL_TWO))
    start(container, program, step)
    container.stop()
    assert container.state() == "READY"
    left = container.machine.run("ls", f"{PYTHON_ROOT}/srv").stdout.split()
    assert [name for name in left if name.startswith("link_remap.")]
    container.machine.run("torpor", "discard", container.name)
    container.start()
    container.wait_for_line("count 2")
    container.stop()
    assert container.state() == "READY", container.journal()
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    assert container.machine.run("ls", f"{PYTHON_ROOT}/srv").stdout == "second\n"


def test_a_client_that_spoke_before_it_was_accepted_is_waited_for(container: Container) -> None:
    start(container, LATE)
    tries_until_said(container, "in-flight socket")


def test_half_a_datagram_is_waited_for(container: Container) -> None:
    start(container, CORKED)
    tries_until_said(container, "corked dgram socket")
