"""TCP connections over sleep and wake: kept where that is asked for, else closed; no lock stays."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from test_kill import kill_at

from containers import Container
from cycle import cycle, running
from machine import Machine
from netpeers import (
    COMMAND,
    ROOTFS,
    Conversation,
    make_rootfs,
    namespace,
    plugged,
    routed,
)

BRIDGE = "tk0"
ADDRESS = "10.79.0.9"
SUBNET = "10.79.0.0/24"
KEEP = {"tcp": "keep"}
NETWORK = {"bridge": BRIDGE, "subnet": SUBNET, "address": ADDRESS}
SIZE_BYTES = 100_000_000
BYTES_PER_S = 12_000_000
# One end of each transfer beside the server: what nc sends is a file, what it gets is summed up.
TRANSFERS = """
busybox nc -l -p 7100 </data >/dev/null &
busybox nc -l -p 7101 </dev/null | busybox sha256sum &
exec /bin/answer 7000
"""
# CRIU's lock of the network is a table, of nftables or of iptables in them, that it names.
LOCKS = r"""
for each in $(ip netns list | grep -o '^torpor-[^ ]*'); do
    ip netns exec $each nft list ruleset | grep -o 'CRIU' | sed "s/^/$each: /" | uniq
done
nft list ruleset | grep CRIU || true
"""


@pytest.fixture(scope="module", autouse=True)
def rootfs(machine: Machine) -> str:
    return make_rootfs(machine)


@contextmanager
def keeper(machine: Machine, name: str, **keys: object) -> Iterator[Container]:
    """A running, answering container on a bridge."""
    wanted: dict[str, object] = {"rootfs": ROOTFS, "command": COMMAND, "hostname": name}
    wanted |= {"network": NETWORK, **keys}
    with running(machine, name, **wanted) as container:
        container.wait_for_line("ready")
        yield container
    assert locks(machine) == ""


def locks(machine: Machine) -> str:
    """Where CRIU's lock of the network is."""
    return machine.run("sh", "-c", LOCKS).stdout


def is_awake(container: Container) -> None:
    assert container.property("StatusText").startswith("restored"), container.journal()


def closed(conversation: Conversation) -> bool:
    """Whether the connection has ended for the peer, at its second word at the latest."""
    ends = ("EOF", "ConnectionResetError", "BrokenPipeError", "TimeoutError")
    return any(conversation.say("still there?") in ends[:3] for _ in range(2))


def test_100_megabytes_each_way_go_on_through_three_sleeps_and_lose_nothing(
    machine: Machine,
) -> None:
    make = 'head -c "$2" /dev/urandom >"$1/data"; sync; sha256sum "$1/data"'
    words = ("sh", "-c", make, "sh", ROOTFS, str(SIZE_BYTES))
    sent_by_container = machine.run(*words).stdout.split()[0]
    network = {**NETWORK, "publish": ["8100:7100"]}
    command = ["/bin/sh", "-c", TRANSFERS.replace("busybox", "/bin/busybox")]
    keys = {"command": command, "network": network, "checkpoint": KEEP}
    try:
        with (
            routed(machine) as there,
            keeper(machine, "keep-transfer", **keys) as container,
            plugged(machine, BRIDGE, "10.79.0.200/24") as beside,
        ):
            receives = there.receive("198.51.100.1", 8100, BYTES_PER_S)
            sends = beside.send(ADDRESS, 7101, BYTES_PER_S, SIZE_BYTES)
            for _ in range(3):
                time.sleep(0.5)
                cycle(container)
                assert receives.is_under_way() and sends.is_under_way()
            assert receives.result() == (sent_by_container, SIZE_BYTES)
            digest, length = sends.result()
            assert length == SIZE_BYTES
            time.sleep(0.2)
            assert f"{digest}  -" in container.journal()
    finally:
        machine.run("rm", "-f", f"{ROOTFS}/data")


def test_every_kind_of_socket_goes_on_and_who_spoke_to_a_sleeper_is_answered_when_it_woke(
    machine: Machine,
) -> None:
    with (
        routed(machine) as peer,
        keeper(machine, "keep-sockets", checkpoint=KEEP) as container,
    ):
        talk, beside = peer.talk(ADDRESS), peer.talk(ADDRESS)
        assert talk.greeting.startswith("keep-sockets ")
        for number in range(3):
            assert talk.say(f"before {number}") == f"before {number}"
            container.stop()
            talk.write(f"while it sleeps {number}")
            time.sleep(0.3)
            container.start()
            is_awake(container)
            assert talk.read() == f"while it sleeps {number}"
            assert beside.say("unix") == "pair stream"
            assert peer.ask(ADDRESS).startswith("keep-sockets ")
            assert peer.ask_udp(ADDRESS) == "datagram"
        assert "connection ended" not in container.journal().replace("connection ended: EOF", "")
        talk.end()
        beside.end()


def test_kept_connections_go_on_with_mapped_ids(machine: Machine) -> None:
    keys = {"idmap": "0:100000:65536", "checkpoint": KEEP}
    with routed(machine) as peer, keeper(machine, "keep-mapped", **keys) as container:
        talk = peer.talk(ADDRESS)
        container.stop()
        talk.write("while it sleeps")
        container.start()
        is_awake(container)
        assert talk.read() == "while it sleeps"
        assert talk.say("again") == "again"
        talk.end()


def test_kept_connections_go_on_through_a_dump_for_a_trial(machine: Machine) -> None:
    with routed(machine) as peer, keeper(machine, "keep-trial", checkpoint=KEEP) as container:
        talk = peer.talk(ADDRESS)
        machine.run("torpor", "check", "--checkpoint", container.name)
        assert locks(machine) == ""
        assert talk.say("hello") == "hello"
        talk.end()


def test_by_default_both_ends_see_connections_end_and_new_ones_come_at_once(
    machine: Machine,
) -> None:
    with routed(machine) as peer, keeper(machine, "keep-not") as container:
        talk = peer.talk(ADDRESS)
        assert talk.say("hello") == "hello"
        cycle(container)
        assert peer.ask(ADDRESS).startswith("keep-not ")
        assert closed(talk)
        talk.end()
        text = container.journal()
        assert "connection ended: E" in text, text
        ends = [line for line in text.splitlines() if line.startswith("connection ended")]
        assert ends[0] in ("connection ended: ECONNRESET", "connection ended: EOF")


def test_a_reboot_closes_also_what_is_kept_otherwise(machine: Machine) -> None:
    with keeper(machine, "keep-reboot", checkpoint=KEEP) as container:
        with routed(machine) as peer:
            talk = peer.talk(ADDRESS)
            assert talk.say("hello") == "hello"
            container.stop()
            machine.reboot()
        container.start()
        is_awake(container)
        with routed(machine) as peer:
            assert peer.ask(ADDRESS).startswith("keep-reboot ")
            assert "connection ended: E" in container.journal()
            talk = peer.talk(ADDRESS)
            cycle(container)
            assert talk.say("kept again") == "kept again"
            talk.end()


# CRIU's lock


def test_the_lock_is_in_the_sleepers_own_namespace_and_goes_when_it_wakes(
    machine: Machine,
) -> None:
    with routed(machine) as peer, keeper(machine, "keep-lock", checkpoint=KEEP) as container:
        talk = peer.talk(ADDRESS)
        assert locks(machine) == ""
        for _ in range(2):
            container.stop()
            assert set(locks(machine).splitlines()) == {f"{namespace(container)}: CRIU"}
            container.start()
            is_awake(container)
            assert locks(machine) == ""
        container.stop()
        machine.run("torpor", "discard", container.name)
        assert locks(machine) == ""
        assert namespace(container) not in machine.run("ip", "netns", "list").stdout
        container.start()  # until then nobody is there who could tell the peer
        assert locks(machine) == ""
        assert closed(talk)
        talk.end()


KILLED = [
    ("frozen", "helper"),
    ("post-dump", "helper"),
    ("sealed", "helper"),
    ("post-dump", "criu"),
]


@pytest.mark.parametrize(("moment", "victim"), KILLED)
def test_no_lock_stays_when_a_dump_is_killed(machine: Machine, moment: str, victim: str) -> None:
    name = f"keep-{moment}-{victim}"
    with routed(machine) as peer, keeper(machine, name, checkpoint=KEEP) as container:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
        talk = peer.talk(ADDRESS)
        kill_at(container, "stop", moment, victim)
        assert locks(machine) == ""
        container.systemctl("reset-failed", check=False)
        container.start()
        assert locks(machine) == ""
        assert peer.ask(ADDRESS).startswith(f"{name} ")
        assert closed(talk)
        talk.end()


@pytest.mark.parametrize("moment", ["committed", "killed", "ready"])
def test_connections_go_on_where_a_helper_died_after_the_commit(
    machine: Machine, moment: str
) -> None:
    name = f"keep-{moment}"
    with routed(machine) as peer, keeper(machine, name, checkpoint=KEEP) as container:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
        talk = peer.talk(ADDRESS)
        kill_at(container, "stop", moment, "helper")
        talk.write("while it sleeps")
        assert set(locks(machine).splitlines()) == {f"{namespace(container)}: CRIU"}
        container.systemctl("reset-failed", check=False)
        container.start()
        is_awake(container)
        assert locks(machine) == ""
        assert talk.read() == "while it sleeps"
        assert talk.say("hello") == "hello"
        talk.end()


@pytest.mark.parametrize(("moment", "victim"), [("post-restore", "criu"), ("restoring", "helper")])
def test_connections_go_on_where_a_restore_was_killed_and_tried_again(
    machine: Machine, moment: str, victim: str
) -> None:
    name = f"keep-{moment}-{victim}"
    with routed(machine) as peer, keeper(machine, name, checkpoint=KEEP) as container:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
        talk = peer.talk(ADDRESS)
        container.stop()
        kill_at(container, "start", moment, victim)
        if container.property("ActiveState") != "active":
            container.systemctl("reset-failed", check=False)
            container.start()
        is_awake(container)
        assert locks(machine) == ""
        assert talk.say("hello") == "hello"
        talk.end()


def test_no_lock_stays_when_a_dump_fails(machine: Machine) -> None:
    with routed(machine) as peer, keeper(machine, "keep-fails", checkpoint=KEEP) as container:
        talk = peer.talk(ADDRESS)
        drop_in = container.drop_in("fault", 'Environment="TORPOR_FAULT=sealed=fail"')
        container.stop()
        assert container.state() == "EXITED", container.journal()
        assert locks(machine) == ""
        assert "Traceback" not in container.journal()
        machine.run("rm", drop_in)
        machine.run("systemctl", "daemon-reload")
        container.start()
        assert locks(machine) == ""
        assert closed(talk)
        talk.end()


# With one firewall alone

PROGRAMS = {
    "nft": "nft",
    "iptables": " ".join(
        f"{name}{verb}" for name in ("iptables", "ip6tables") for verb in ("", "-restore", "-save")
    ),
}


@contextmanager
def hidden(machine: Machine, programs: str) -> Iterator[None]:
    """Without some programs of /usr/sbin."""
    move = 'for each in $2; do mv "/usr/sbin/$each$1" "/usr/sbin/$each$3"; done'
    machine.run("sh", "-ec", move, "sh", "", programs, ".hidden")
    try:
        yield
    finally:
        machine.run("sh", "-c", move, "sh", ".hidden", programs, "")


@contextmanager
def bridge_by_hand(machine: Machine) -> Iterator[None]:
    """A bridge that is somebody's LAN: torpor needs no rules for it."""
    make = f"ip link add {BRIDGE} type bridge && ip addr add 10.79.0.1/24 dev {BRIDGE}"
    machine.run("sh", "-ec", f"{make} && ip link set {BRIDGE} up")
    try:
        yield
    finally:
        machine.run("ip", "link", "del", BRIDGE)


@pytest.mark.parametrize("which", PROGRAMS)
def test_connections_are_kept_without(machine: Machine, which: str) -> None:
    keys = {"network": {**NETWORK, "gateway": "10.79.0.1"}, "checkpoint": KEEP}
    with (
        bridge_by_hand(machine),
        keeper(machine, f"keep-no-{which}", **keys) as container,
        plugged(machine, BRIDGE, "10.79.0.200/24") as peer,
        hidden(machine, PROGRAMS[which]),
    ):
        talk = peer.talk(ADDRESS)
        for _ in range(2):
            container.stop()
            assert container.state() == "READY", container.journal()
            talk.write("while it sleeps")
            container.start()
            is_awake(container)
            assert talk.read() == "while it sleeps"
        talk.end()


# A CRIU that was built without nftables, as far as it says itself.
CRIU_WITHOUT_NFTABLES = """#!/bin/sh
case "$*" in *network_lock_nftables*) exit 1 ;; esac
exec /usr/sbin/criu "$@"
"""


@contextmanager
def without_nftables(machine: Machine) -> Iterator[None]:
    machine.write("/usr/local/sbin/criu", CRIU_WITHOUT_NFTABLES, 0o755)
    try:
        yield
    finally:
        machine.run("rm", "/usr/local/sbin/criu")


def iptables_of(container: Container) -> str:
    """The rules of a sleeper's namespace by which CRIU drops packets."""
    words = ("ip", "netns", "exec", namespace(container), "iptables-save")
    return container.machine.run(*words).stdout


def test_the_lock_of_iptables_holds_and_goes(machine: Machine) -> None:
    with (
        without_nftables(machine),
        routed(machine) as peer,
        keeper(machine, "keep-iptables", checkpoint=KEEP) as container,
    ):
        talk = peer.talk(ADDRESS)
        for number in range(2):
            container.stop()
            assert "-A INPUT -j CRIU" in iptables_of(container)
            assert set(locks(machine).splitlines()) == {f"{namespace(container)}: CRIU"}
            talk.write(f"while it sleeps {number}")
            time.sleep(0.3)
            container.start()
            is_awake(container)
            assert locks(machine) == ""
            assert talk.read() == f"while it sleeps {number}"
        drop_in = container.drop_in("fault", 'Environment="TORPOR_FAULT=restoring=fail"')
        container.stop()
        assert container.systemctl("start", check=False) != 0
        machine.run("rm", drop_in)
        machine.run("systemctl", "daemon-reload")
        container.systemctl("reset-failed", check=False)
        container.start()
        is_awake(container)
        assert locks(machine) == ""
        assert talk.say("again") == "again"
        container.stop()
        machine.run("torpor", "discard", container.name)
        assert locks(machine) == ""
        talk.end()


@pytest.mark.parametrize("victim", ["helper", "criu"])
def test_no_lock_of_iptables_stays_when_a_dump_is_killed(machine: Machine, victim: str) -> None:
    name = f"keep-iptables-{victim}"
    with without_nftables(machine), keeper(machine, name, checkpoint=KEEP) as container:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
        kill_at(container, "stop", "post-dump", victim)
        assert locks(machine) == ""
        container.systemctl("reset-failed", check=False)
        container.start()
        assert locks(machine) == ""


def test_where_nothing_can_lock_the_network_all_say_so(machine: Machine) -> None:
    said = "CRIU can hold back no packets"
    with (
        without_nftables(machine),
        hidden(machine, PROGRAMS["iptables"]),
        keeper(machine, "keep-neither", checkpoint=KEEP) as container,
    ):
        doctor = machine.run("torpor", "doctor", check=False).stdout
        assert "neither this CRIU with nftables nor iptables" in doctor
        trial = machine.run("torpor", "check", "--checkpoint", container.name, check=False)
        assert trial.returncode and said in trial.stderr
        container.stop()
        assert container.state() == "EXITED"
        assert said in container.journal()


@pytest.mark.parametrize("network", ["host", {"namespace": "/proc/1/ns/net"}])
def test_to_keep_connections_in_somebody_elses_network_is_refused(
    machine: Machine, network: object
) -> None:
    container = Container(machine, "keep-host")
    container.define(rootfs=ROOTFS, command=COMMAND, network=network, checkpoint=KEEP)
    assert container.systemctl("start", check=False) != 0
    text = container.journal()
    assert "checkpoint" in text and "keep" in text and "Traceback" not in text
    container.remove()
