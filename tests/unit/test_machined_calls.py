"""machined is asked only about torpor's own machines, and what it does not undo is undone."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from torpor import machined
from torpor.container import NAME_MAX, Container

MACHINE_ID = "161d79b97328486eabcaf3144bb26f46"
UNIT_LINK = "unit:torpor@web.service"

# A busctl that says what it was called with, and the words that a test has for it.
BUSCTL = """#!/bin/sh
echo "$@" >>"$0.called"
words=$(cat "$0.says" 2>/dev/null)
[ "$words" ] || exit 0
echo "Call failed: $words" >&2
exit 1
"""


class Host:
    """machined's records, its socket and the bus, in a directory."""

    def __init__(self, place: Path) -> None:
        self.records = place / "machines"
        self.records.mkdir()
        self.address = place / "socket"
        self.busctl = place / "bin/busctl"
        self.busctl.parent.mkdir()
        self.busctl.write_text(BUSCTL)
        self.busctl.chmod(0o755)

    def record(self, service: str = machined.SERVICE) -> None:
        """A machine called web, as machined records it."""
        (self.records / "web").write_text(f"# private\nNAME=web\nSERVICE={service}\nLEADER=7\n")
        (self.records / UNIT_LINK).symlink_to("web")

    def say(self, words: str) -> None:
        Path(f"{self.busctl}.says").write_text(words)

    @property
    def called(self) -> list[str]:
        try:
            return Path(f"{self.busctl}.called").read_text().splitlines()
        except FileNotFoundError:
            return []

    @property
    def recorded(self) -> list[str]:
        return sorted(os.listdir(self.records))

    def bind(self) -> socket.socket:
        """The socket's file; it refuses until somebody listens, as after machined's end."""
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.address))
        return server

    def listen(self, reply: bytes) -> list[bytes]:
        """Be a machined for one call; returns what will have been asked."""
        asked: list[bytes] = []
        server = self.bind()
        server.listen(1)

        def serve() -> None:
            link, _ = server.accept()
            asked.append(link.recv(4096))
            link.sendall(reply)
            link.close()
            server.close()

        threading.Thread(target=serve, daemon=True).start()
        return asked


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(machined, "_RECORDS", str(made.records))
    monkeypatch.setattr(machined, "_SOCKET", str(made.address))
    monkeypatch.setenv("PATH", f"{made.busctl.parent}:{os.environ['PATH']}")
    return made


@pytest.fixture
def web() -> Container:
    return Container("web")


@pytest.mark.parametrize("name", ["web", "0", "a-b", "a--b", "a.b-c.D9", "x" * NAME_MAX])
def test_a_host_name_can_be_a_machine_s(name: str) -> None:
    assert machined.obstacle(name) == ""


@pytest.mark.parametrize("name", ["a_b", "web.", "a..b", "a-", "a-.b", "a.-b"])
def test_a_container_s_name_that_is_no_host_name_cannot(name: str) -> None:
    Container(name)
    assert "machine's name" in machined.obstacle(name)


def test_a_wrong_character_is_named() -> None:
    assert "'_'" in machined.obstacle("a_b")


def test_a_machine_is_registered_with_its_leader_and_its_id(host: Host, web: Container) -> None:
    assert machined.register(web, 4711, MACHINE_ID).finish() == ""
    (call,) = host.called
    octets = " ".join(str(octet) for octet in bytes.fromhex(MACHINE_ID))
    assert call.endswith(f"RegisterMachine sayssus web 16 {octets} torpor container 4711 ")
    assert "--auto-start" not in call


def test_without_an_id_an_empty_one_is_given(host: Host, web: Container) -> None:
    machined.register(web, 4711).finish()
    assert host.called[0].endswith("sayssus web 0 torpor container 4711 ")


def test_a_refusal_is_a_warning_in_machined_s_words(host: Host, web: Container) -> None:
    host.say("Invalid leader PID")
    warning = machined.register(web, 1).finish()
    assert "Invalid leader PID" in warning and "Call failed" not in warning


def test_a_host_without_machined_is_told_what_to_install(host: Host, web: Container) -> None:
    host.say("The name org.freedesktop.machine1 was not provided by any .service files")
    assert "systemd-container" in machined.register(web, 4711).finish()


def test_a_host_without_busctl_is_a_warning(
    host: Host, web: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(host.records))
    assert "busctl" in machined.register(web, 4711).finish()


def test_a_bus_that_does_not_answer_is_not_waited_for(
    host: Host, web: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machined, "_TIMEOUT_S", 0.3)
    host.busctl.write_text("#!/bin/sh\nexec sleep 60\n")
    began = time.monotonic()
    assert "no answer" in machined.register(web, 4711).finish()
    assert time.monotonic() - began < 10


def test_another_s_machine_keeps_its_name(host: Host, web: Container) -> None:
    host.record("systemd-nspawn")
    host.say("Machine 'web' already exists")
    assert "systemd-nspawn has a machine" in machined.register(web, 4711).finish()
    machined.unregister(web)
    assert host.recorded == [UNIT_LINK, "web"] and len(host.called) == 1


def test_a_name_that_machined_is_about_to_free_is_asked_for_again(
    host: Host, web: Container
) -> None:
    host.say("Machine 'web' already exists")
    asked = machined.register(web, 4711)
    threading.Timer(0.1, host.say, [""]).start()
    assert asked.finish() == ""
    assert len(host.called) > 1


def test_who_is_not_registered_causes_no_call(host: Host, web: Container) -> None:
    asked = host.listen(b"")
    machined.unregister(web)
    assert not asked and not host.called


def test_machined_is_asked_without_the_bus(host: Host, web: Container) -> None:
    host.record()
    asked = host.listen(b'{"parameters":{}}\0')
    machined.unregister(web)
    assert asked == [b'{"method":"io.systemd.Machine.Unregister","parameters":{"name":"web"}}\0']
    assert not host.called


def test_an_older_machined_is_asked_over_the_bus_and_not_started(
    host: Host, web: Container
) -> None:
    host.record()
    host.listen(b'{"error":"org.varlink.service.MethodNotFound","parameters":{}}\0')
    machined.unregister(web)
    (call,) = host.called
    assert "--auto-start=no" in call and call.endswith("UnregisterMachine s web")


@pytest.mark.parametrize("dead_socket", [False, True])
def test_the_record_of_a_machined_that_does_not_run_is_removed(
    host: Host, web: Container, dead_socket: bool
) -> None:
    """It would stop the unit, whatever runs in it, when it is started again."""
    host.record()
    (host.records / "unit:torpor@other.service").symlink_to("other")
    if dead_socket:
        host.bind().close()
    machined.unregister(web)
    assert host.recorded == ["unit:torpor@other.service"]
    assert bool(host.called) != dead_socket


def test_a_stale_record_is_gone_before_machined_is_started(host: Host, web: Container) -> None:
    host.record()
    host.bind().close()
    host.busctl.write_text(f'#!/bin/sh\nls "{host.records}" >"$0.called"\n')
    assert machined.register(web, 4711).finish() == ""
    assert host.called == []


def test_a_machined_that_hangs_is_not_waited_for(
    host: Host, web: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machined, "_QUICK_S", 0.2)
    host.record()
    server = host.bind()
    server.listen(1)
    machined.unregister(web)
    server.close()
    assert host.recorded == [] and not host.called
