"""A container's network, as its neighbours see it: the same after each wake, nothing left."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from test_kill import kill_at

from containers import Container
from cycle import cycle, running, within
from machine import Machine
from netpeers import (
    COMMAND,
    HERE,
    HERE6,
    PORT,
    ROOTFS,
    THERE,
    THERE6,
    Peer,
    ip,
    make_rootfs,
    namespace,
    plugged,
    routed,
)

SUBNET = "10.77.0.0/24"
BRIDGE = "tb0"
SUBNET6 = "fd77::/64"
LO = "lo UNKNOWN 127.0.0.1/8 ::1/128"
MANY = 20

# All that a network can leave in the machine.
LOOK = r"""
ip -br link; ip -br addr; ip route show table all; ip -6 route show table all
nft --stateless list ruleset; ip netns list; ls -A /run/netns 2>/dev/null
for directory in /var/lib/torpor /run/torpor /run/torpor/.networks /run/torpor/.standing; do
    find $directory -mindepth 1 -maxdepth 1 ! -name '.*' 2>/dev/null
done
true
"""
OPENED = r"""
ip netns list | grep -o '^torpor-[^ ]*' || true
ip -br link | grep -oE '^(tb|tor)[^ ]*' || true
nft list tables | grep torpor || true
ls -d /var/lib/torpor/*/network 2>/dev/null || true
"""
# What makes a network namespace what it is to whoever lives in it.
IDENTITY = r"""
ip -n "$1" -br link; ip -n "$1" -br addr; ip -n "$1" route; ip -n "$1" -6 route
ip -n "$1" -o link show eth0 | grep -o 'mtu [0-9]*'
"""
ANSWERS = f'/bin/busybox nc -w 3 "$1" {PORT} </dev/null | head -n 1'


@pytest.fixture(scope="module", autouse=True)
def rootfs(machine: Machine) -> str:
    # A podman of other tests left it, and a reboot takes it away.
    machine.run("nft", "delete", "table", "inet", "netavark", check=False)
    return make_rootfs(machine)


@pytest.fixture(autouse=True)
def nothing_left(machine: Machine, rootfs: str) -> Iterator[None]:
    before = look(machine)
    yield
    deadline_s = time.monotonic() + 2  # the kernel removes a device a little later
    while (after := look(machine)) != before and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert after == before


def look(machine: Machine) -> list[str]:
    """All that networks leave."""
    found = machine.run("sh", "-c", LOOK).stdout
    return [" ".join(line.split()) for line in found.splitlines()]


def opened(machine: Machine) -> str:
    """What torpor has in the machine for networks at this moment."""
    return machine.run("sh", "-c", OPENED).stdout


def bridge(**keys: object) -> dict[str, object]:
    return {"bridge": BRIDGE, "subnet": SUBNET, **keys}


@contextmanager
def networked(
    machine: Machine, name: str, network: object = None, **keys: object
) -> Iterator[Container]:
    """A running, answering container, its host name its own; None: the definition says nothing."""
    wanted = {"rootfs": ROOTFS, "command": COMMAND, "hostname": name, **keys}
    if network is not None:
        wanted["network"] = network
    with running(machine, name, **wanted) as container:
        container.wait_for_line("ready")
        yield container


def links(container: Container) -> list[str]:
    """Its interfaces and their addresses, a line each."""
    pid = container.property("MainPID")
    said = container.machine.run("nsenter", f"--target={pid}", "--net", "ip", "-br", "addr").stdout
    return [" ".join(line.split()) for line in said.splitlines()]


def inode(container: Container) -> str:
    path = f"/proc/{container.property('MainPID')}/ns/net"
    return container.machine.run("readlink", path).stdout.strip()


def identity(container: Container) -> list[str]:
    """Addresses, routes and devices; without the number of the other end, which is the host's."""
    words = ("sh", "-c", IDENTITY, "sh", namespace(container))
    said = container.machine.run(*words).stdout
    return [re.sub("@if[0-9]+", "", " ".join(line.split())) for line in said.splitlines()]


def address(container: Container, family: str = "-4") -> str:
    """Its address on eth0, without the length."""
    said = ip(container, family, "-o", "addr", "show", "dev", "eth0", "scope", "global")
    found = re.search(r"inet6? ([0-9a-f.:]+)/", said)
    return found[1] if found else ""


def greeting(container: Container, host: str) -> str:
    """What an answering server says to the container."""
    return within(container, f"set -- {host}; {ANSWERS}").strip()


@contextmanager
def listening(machine: Machine, port: int) -> Iterator[None]:
    """A process of the host that has a port."""
    listen = f"import socket,time; s=socket.create_server(('',{port})); time.sleep(999)"
    unit = f"net-listens-{port}"
    machine.run("systemd-run", "--quiet", f"--unit={unit}", "--collect", "python3", "-c", listen)
    until = 'until ss -Hltn "sport = :$1" | grep -q .; do sleep 0.05; done'
    try:
        machine.run("timeout", "5", "sh", "-c", until, "sh", str(port))
        yield
    finally:
        machine.run("systemctl", "stop", unit, check=False)


def is_awake(container: Container) -> None:
    assert container.property("StatusText").startswith("restored"), container.journal()


def refuses(container: Container) -> str:
    """What it says when it does not start."""
    assert container.systemctl("start", check=False) != 0
    text = container.journal()
    assert "Traceback" not in text, text
    container.machine.run("systemctl", "reset-failed", container.unit, check=False)
    return text


# Whose network it is


def test_who_says_nothing_or_none_has_only_lo_which_is_up_also_after_the_wake(
    machine: Machine,
) -> None:
    with networked(machine, "net-default") as silent, networked(machine, "net-none", "none") as one:
        for container in (silent, one):
            assert links(container) == [LO]
            cycle(container)
            assert links(container) == [LO]
        assert opened(machine) == ""


def test_who_has_the_hosts_network_sees_the_hosts_interfaces(machine: Machine) -> None:
    with networked(machine, "net-host", "host") as container:
        host = machine.run("readlink", "/proc/1/ns/net").stdout.strip()
        assert inode(container) == host
        cycle(container)
        assert inode(container) == host
        assert opened(machine) == ""


def test_a_network_of_another_container_is_shared_and_by_path_joined(machine: Machine) -> None:
    with ExitStack() as stack:
        giver = stack.enter_context(networked(machine, "net-giver", bridge()))
        other = [*COMMAND[:1], "7001"]
        joiner = stack.enter_context(
            networked(machine, "net-joiner", {"container": "net-giver"}, command=other)
        )
        path = f"/run/netns/{namespace(giver)}"
        third = stack.enter_context(
            networked(machine, "net-path", {"namespace": path}, command=[*COMMAND[:1], "7002"])
        )
        machine.run("systemctl", "daemon-reload")  # systemd learns who needs whom
        assert inode(giver) == inode(joiner) == inode(third)
        # Who lives in a sleeper's network keeps its connections.
        peer = stack.enter_context(plugged(machine, BRIDGE, "10.77.0.250/24"))
        own = address(giver)
        for _ in range(4):
            assert peer.ask(own).startswith("net-giver ")  # which then has them in TIME-WAIT
        talk = peer.talk(own, 7002)
        assert talk.greeting.startswith("net-path ")
        giver.stop()
        assert talk.say("is anybody there?") == "is anybody there?"
        giver.start()
        is_awake(giver)
        assert talk.say("and now?") == "and now?"
        assert peer.ask(own).startswith("net-giver ")
        assert inode(giver) == inode(third)
        talk.end()
        giver.stop()
        third.stop()
        assert (joiner.state(), giver.state(), third.state()) == ("READY",) * 3
        for container in (joiner, third):
            container.start()
            is_awake(container)
        assert inode(giver) == inode(joiner) == inode(third)


# On a bridge


def test_a_bridge_gives_an_address_a_gateway_and_names(machine: Machine) -> None:
    machine.run("sh", "-c", "cp -a /etc/resolv.conf /run/resolv.was; rm -f /etc/resolv.conf")
    machine.write("/etc/resolv.conf", "nameserver 192.0.2.53\nsearch example.test\n")
    try:
        with networked(machine, "net-auto", bridge()) as container:
            own = address(container)
            assert own.startswith("10.77.0.") and own not in ("10.77.0.0", "10.77.0.1")
            assert "default via 10.77.0.1 dev eth0" in "\n".join(identity(container))
            for _ in range(2):
                within(container, "/bin/busybox ping -c 1 -W 3 10.77.0.1")
                assert "nameserver 192.0.2.53" in within(container, "cat /etc/resolv.conf")
                hosts = within(container, "cat /etc/hosts")
                assert f"{own} net-auto" in " ".join(hosts.split())
                assert "127.0.0.1 localhost" in " ".join(hosts.split())
                cycle(container)
    finally:
        back = "rm -f /etc/resolv.conf; mv /run/resolv.was /etc/resolv.conf"
        machine.run("sh", "-c", back, check=False)


def test_a_container_behind_a_bridge_reaches_what_the_machine_reaches(machine: Machine) -> None:
    server = ("systemd-run", "--quiet", "--unit=net-server", "--collect")
    with routed(machine) as peer:
        machine.run(*server, "ip", "netns", "exec", peer.name, f"{ROOTFS}/bin/answer", str(PORT))
        try:
            network = bridge(ipv6=SUBNET6)
            with networked(machine, "net-out", network) as container:
                for _ in range(2):
                    # Masqueraded: the peer has no route to the bridge but by us, and sees us.
                    assert greeting(container, THERE).endswith(f" {HERE}")
                    assert greeting(container, THERE6).endswith(f" {HERE6}")
                    cycle(container)
        finally:
            machine.run("systemctl", "stop", "net-server", check=False)


def test_what_is_said_of_address_mac_and_mtu_is_so(machine: Machine) -> None:
    said = bridge(address="10.77.0.9", mac="02:00:00:00:77:09", mtu=1400, ipv6="fd77::9/64")
    with networked(machine, "net-static", said) as container:
        before = identity(container)
        for _ in range(2):
            now = "\n".join(identity(container))
            assert "eth0 UP 10.77.0.9/24" in now and "fd77::9/64" in now
            assert "eth0 UP 02:00:00:00:77:09" in now
            assert "mtu 1400" in now
            assert identity(container) == before
            cycle(container)


def test_two_on_a_bridge_talk_before_and_after_either_slept(machine: Machine) -> None:
    with ExitStack() as stack:
        network = bridge(ipv6=SUBNET6)
        one, other = (
            stack.enter_context(networked(machine, name, network)) for name in ("net-1", "net-2")
        )
        for sleeper in (one, other, None):
            assert greeting(one, address(other)) == f"net-2 {address(one)}"
            assert greeting(other, address(one)) == f"net-1 {address(other)}"
            six = address(other, "-6")
            assert greeting(one, six) == f"net-2 {address(one, '-6')}"
            if sleeper:
                cycle(sleeper)


def test_the_namespace_is_kept_while_it_sleeps_and_is_the_same_when_it_wakes(
    machine: Machine,
) -> None:
    with networked(machine, "net-kept", bridge()) as container:
        before, was = identity(container), inode(container)
        ip(container, "addr", "add", "10.77.1.5/32", "dev", "lo")
        container.stop()
        assert namespace(container) in machine.run("ip", "netns", "list").stdout
        assert "10.77.1.5/32" in "\n".join(identity(container))
        container.start()
        is_awake(container)
        assert inode(container) == was
        ip(container, "addr", "del", "10.77.1.5/32", "dev", "lo")
        assert identity(container) == before


PUBLISH = ["8080:7000/tcp", "8080:7000/udp", f"{HERE}:8082:7000"]


def assert_published(peer: Peer, name: str) -> None:
    assert peer.ask(HERE, 8080) == f"{name} {THERE}"
    assert peer.ask(HERE6, 8080) == f"{name} {THERE6}"
    assert peer.ask(HERE, 8082) == f"{name} {THERE}"
    assert peer.ask_udp(HERE, 8080) == "datagram"
    assert peer.ask_udp(HERE6, 8080) == "datagram"


def test_published_ports_answer_others_the_host_and_neighbours_while_it_is_awake(
    machine: Machine,
) -> None:
    network = bridge(ipv6=SUBNET6, publish=PUBLISH)
    with (
        routed(machine) as peer,
        networked(machine, "net-pub", network) as container,
        networked(machine, "net-beside", bridge()) as beside,
    ):
        assert_published(peer, "net-pub")
        ask = f"busybox nc -w 3 {HERE} 8080 </dev/null | head -n 1"
        assert machine.run("sh", "-c", ask).stdout.startswith("net-pub ")
        # A neighbour, and itself: the answer must come back by the way the question came.
        for asker in (beside, container):
            assert within(asker, f"/bin/busybox {ask.partition(' ')[2]}").startswith("net-pub ")
        container.stop()
        assert "net-pub" not in peer.ask(HERE, 8080)
        container.start()
        is_awake(container)
        assert_published(peer, "net-pub")
        machine.run("torpor", "stop", "--fresh", container.name)
        assert "net-pub" not in peer.ask(HERE, 8080)


def test_twenty_that_start_at_once_have_twenty_addresses(machine: Machine) -> None:
    names = [f"net-many{number}" for number in range(MANY)]
    containers = [Container(machine, name) for name in names]
    for container in containers:
        container.define(rootfs=ROOTFS, command=COMMAND, network=bridge())
    units = [container.unit for container in containers]
    try:
        machine.run("systemctl", "start", *units, timeout=120)
        show = (
            "ip netns list | grep -o '^torpor-[^ ]*' | sort |"
            "while read each; do ip -n $each -br -4 addr; done"
        )
        said = machine.run("sh", "-c", show).stdout
        assert len(set(re.findall(r"10\.77\.0\.\d+", said))) == MANY, said
        leases = machine.run("sh", "-c", "ls /var/lib/torpor/net-many*/network").stdout.split()
        assert len(leases) == MANY
        machine.run("systemctl", "stop", *units, timeout=120)
        machine.run("systemctl", "start", *units, timeout=120)
        for container in containers[::7]:
            is_awake(container)
        assert machine.run("sh", "-c", show).stdout == said
    finally:
        end = 'systemctl kill -s KILL "$@"; systemctl stop "$@"; systemctl reset-failed "$@"; true'
        machine.run("sh", "-c", end, "sh", *units, timeout=120, check=False)
        forget = 'for each; do rm -r "/var/lib/torpor/$each" "/etc/torpor/$each.yaml"; done'
        machine.run("sh", "-c", forget, "sh", *names, check=False)


# An address that another got meanwhile


@contextmanager
def displaced(machine: Machine, name: str, **keys: object) -> Iterator[Container]:
    """A sleeper whose lease was removed by hand and whose address another has."""
    with networked(machine, name, **keys) as container:
        taken = address(container)
        container.stop()
        machine.run("rm", f"/var/lib/torpor/{name}/network")
        thief = f"{name}-thief"
        with networked(machine, thief, bridge(address=taken)) as other:
            yield container
            assert address(other) == taken
            assert greeting(other, taken) == f"{thief} {taken}"


def test_who_lost_its_address_says_so_and_sleeps_on_where_that_is_asked(machine: Machine) -> None:
    fail = {"restore-failure": "fail"}
    network = bridge(address="10.77.0.40", publish=["8084:7000"])
    with displaced(machine, "net-lost", network=network, checkpoint=fail) as container:
        before = opened(machine)
        text = refuses(container)
        assert "10.77.0.40" in text and "net-lost-thief" in text
        assert container.status()["state"] in ("READY", "DAMAGED")
        assert opened(machine).replace(f"{namespace(container)}\n", "") == before.replace(
            f"{namespace(container)}\n", ""
        )
        machine.run("torpor", "stop", "--fresh", "net-lost-thief")
        assert container.state() == "READY"  # nothing was wrong with its images
        container.start()
        is_awake(container)
        assert address(container) == "10.77.0.40"
        container.stop()
        machine.run("systemctl", "start", "torpor@net-lost-thief", check=False)
        machine.run("torpor", "discard", "net-lost")
        machine.run("systemctl", "reset-failed", "torpor@net-lost-thief", check=False)
        machine.run("systemctl", "start", "torpor@net-lost-thief")


def test_who_lost_an_address_that_was_given_starts_fresh_with_another(machine: Machine) -> None:
    fresh = {"restore-failure": "start-fresh"}
    with displaced(machine, "net-moved", network=bridge(), checkpoint=fresh) as container:
        container.start()
        assert container.property("StatusText").startswith("started fresh"), container.journal()
        assert "net-moved-thief" in container.journal()
        assert address(container).startswith("10.77.0.")


@pytest.mark.parametrize("taker", ["container", "process"])
def test_who_lost_a_port_sleeps_on_until_it_is_free(machine: Machine, taker: str) -> None:
    with networked(machine, "net-port", bridge(publish=["8093:7000"])) as container:
        container.stop()
        with ExitStack() as stack:
            if taker == "container":
                machine.run("rm", "/var/lib/torpor/net-port/network")
                thief = bridge(publish=["8093:7000"])
                stack.enter_context(networked(machine, "net-port-thief", thief))
            else:
                stack.enter_context(listening(machine, 8093))
            assert re.search(
                "(net-port-thief has|a process of the host listens)", refuses(container)
            )
            assert container.state() == "READY"
        container.start()
        is_awake(container)


# Ids mapped


def test_a_container_with_mapped_ids_has_a_network_that_wakes(machine: Machine) -> None:
    network = bridge(ipv6="fd77::50/64", address="10.77.0.50", publish=["8085:7000"])
    keys = {"idmap": "0:100000:65536"}
    with (
        routed(machine) as peer,
        networked(machine, "net-mapped", network, **keys) as container,
    ):
        before = identity(container)
        for _ in range(2):
            assert (
                "user:["
                in machine.run("readlink", f"/proc/{container.property('MainPID')}/ns/user").stdout
            )
            assert inode(container) == f"net:[{ns_inode(container)}]"
            assert peer.ask(HERE, 8085) == f"net-mapped {THERE}"
            within(container, "/bin/busybox ip link set lo mtu 65000")  # its own to configure
            within(container, "/bin/busybox ip link set lo mtu 65536")
            cycle(container)
            assert identity(container) == before


def ns_inode(container: Container) -> str:
    path = f"/run/netns/{namespace(container)}"
    return container.machine.run("stat", "-Lc", "%i", path).stdout.strip()


# Over a reboot


def test_all_of_it_is_there_again_after_a_reboot(machine: Machine) -> None:
    with ExitStack() as stack:
        plain = bridge(ipv6=SUBNET6, publish=PUBLISH)
        static = bridge(address="10.77.0.60/24", mac="02:00:00:00:77:60", mtu=1300)
        mapped = {"idmap": "0:100000:65536"}
        containers = [
            stack.enter_context(networked(machine, "net-rp", plain)),
            stack.enter_context(networked(machine, "net-rs", static)),
            stack.enter_context(networked(machine, "net-rm", bridge(), **mapped)),
        ]
        one = containers[0]
        for container in containers:
            ip(container, "addr", "add", "10.88.0.5/16", "dev", "eth0")
            ip(container, "route", "add", "192.0.2.0/24", "via", "10.77.0.1")
            ip(container, "-6", "addr", "add", "fd88::5/64", "dev", "lo", "nodad")
        before = [identity(container) for container in containers]
        assert "192.0.2.0/24 via 10.77.0.1 dev eth0" in before[0]
        for container in containers:
            container.stop()
        machine.reboot()
        with networked(machine, "net-early", bridge()) as early:
            # It comes before they wake, and takes none of theirs.
            theirs = [line for lines in before for line in lines if "eth0 UP 10" in line]
            assert not any(f" {address(early)}/" in line for line in theirs)
            for container in containers:
                container.start()
                is_awake(container)
            assert [identity(container) for container in containers] == before
            assert greeting(early, address(one)) == f"net-rp {address(early)}"
            with routed(machine) as peer:
                assert_published(peer, "net-rp")
            cycle(one)
            assert identity(one) == before[0]


# Its end


def fresh(container: Container) -> None:
    container.machine.run("torpor", "stop", "--fresh", container.name)


def killed(container: Container) -> None:
    container.machine.run("systemctl", "kill", "-s", "KILL", container.unit)
    container.wait_for("failed")


def discarded(container: Container) -> None:
    container.stop()
    container.machine.run("torpor", "discard", container.name)
    container.machine.run("torpor", "discard", container.name)


def cleaned(container: Container) -> None:
    container.stop()
    clean = ("systemctl", "clean", "--what=state", container.unit)
    container.machine.run(*clean)
    container.start()  # only now does anybody of torpor hear of it
    assert container.property("StatusText").startswith("started fresh")
    fresh(container)


@pytest.mark.parametrize("end", [fresh, killed, discarded, cleaned])
def test_nothing_of_it_is_left_when_it_ends(
    machine: Machine, end: Callable[[Container], None]
) -> None:
    with networked(machine, "net-ends", bridge(ipv6=SUBNET6, publish=PUBLISH)) as container:
        end(container)
        time.sleep(0.1)
        assert opened(machine) == ""


def test_nothing_of_it_is_left_when_its_program_ends(machine: Machine) -> None:
    container = Container(machine, "net-brief")
    command = ["/bin/sh", "-c", "sleep 0.3; exit 3"]
    container.define(rootfs=ROOTFS, command=command, network=bridge(publish=PUBLISH))
    container.start()
    container.wait_for("failed")
    try:
        assert opened(machine) == ""
    finally:
        container.remove()


def test_a_bridge_lasts_as_long_as_somebody_is_on_it(machine: Machine) -> None:
    with networked(machine, "net-stays", bridge()) as stays:
        with networked(machine, "net-goes", bridge()) as goes:
            stays.stop()
            fresh(goes)
            assert BRIDGE in opened(machine)
        stays.start()
        is_awake(stays)
        within(stays, "/bin/busybox ping -c 1 -W 3 10.77.0.1")


def test_a_bridge_that_was_there_is_joined_and_left_as_it_was(machine: Machine) -> None:
    make = "ip link add tbhand type bridge && ip addr add 10.66.0.1/24 dev tbhand"
    machine.run("sh", "-ec", f"{make} && ip link set tbhand up")
    try:
        before = machine.run("ip", "-br", "addr", "show", "dev", "tbhand").stdout.split()[2:]
        network = {"bridge": "tbhand", "subnet": "10.66.0.0/24", "gateway": "10.66.0.1"}
        with networked(machine, "net-hand", network) as container:
            for _ in range(2):
                within(container, "/bin/busybox ping -c 1 -W 3 10.66.0.1")
                assert "masquerade" not in machine.run("nft", "list", "ruleset").stdout
                cycle(container)
        assert (
            machine.run("ip", "-br", "addr", "show", "dev", "tbhand").stdout.split()[2:3]
            == (before[:1])
        )
    finally:
        machine.run("ip", "link", "del", "tbhand")


# Other people's hands

HANDS = {
    "namespace": 'ip netns del "torpor-$1"',
    "bridge": f"ip link del {BRIDGE}",
    "veth": "ip link del $(ip -br link | grep -oE '^tor[0-9a-f]{8}')",
    "rules": "for each in container-$1 bridge-tb0; do nft delete table inet torpor-$each; done",
    "ruleset": "nft flush ruleset",
    "lease": 'rm "/var/lib/torpor/$1/network"',
}


def meddle(container: Container, what: str) -> None:
    container.machine.run("sh", "-ec", HANDS[what], "sh", container.name)


@pytest.mark.parametrize("what", HANDS)
def test_whatever_somebody_removed_of_a_sleepers_network_is_made_again_and_goes_with_it(
    machine: Machine, what: str
) -> None:
    with (
        routed(machine) as peer,
        networked(machine, "net-hands", bridge(publish=["8086:7000"])) as container,
    ):
        before = identity(container)
        container.stop()
        meddle(container, what)
        container.start()
        is_awake(container)
        assert identity(container) == before
        assert peer.ask(HERE, 8086) == f"net-hands {THERE}"
        # and while it is awake
        meddle(container, what)
        fresh(container)
        assert opened(machine) == ""
        # and of one that never wakes
        container.start()
        container.stop()
        meddle(container, what)
        machine.run("torpor", "discard", container.name)
        assert opened(machine) == ""
        assert "Traceback" not in container.journal()


@pytest.mark.parametrize("moment", ["leased", "netns", "created", "connected"])
def test_a_killed_start_leaves_nothing_after_the_next(machine: Machine, moment: str) -> None:
    container = Container(machine, f"net-killed-{moment}")
    container.define(rootfs=ROOTFS, command=COMMAND, network=bridge(publish=["8087:7000"]))
    container.drop_in("timeout", "TimeoutStartSec=3s\nTimeoutStopSec=3s")
    try:
        kill_at(container, "start", moment, "helper")
        container.systemctl("reset-failed", check=False)
        container.start()
        assert opened(machine).count(namespace(container)) == 1
        assert opened(machine).count("/network") == 1
        assert len(re.findall("^tor[0-9a-f]{8}@", opened(machine), re.MULTILINE)) == 1
        fresh(container)
        assert opened(machine) == ""
    finally:
        container.remove()


@pytest.mark.parametrize("victim", ["helper", "criu"])
def test_one_made_again_is_let_in_also_where_its_first_wake_was_killed(
    machine: Machine, victim: str
) -> None:
    name = f"net-again-{victim}"
    with routed(machine) as peer, networked(machine, name, bridge()) as container:
        container.drop_in("timeout", "TimeoutStartSec=8s\nTimeoutStopSec=3s")
        container.stop()
        meddle(container, "namespace")
        kill_at(container, "start", "post-restore", victim)
        if container.property("ActiveState") != "active":
            container.systemctl("reset-failed", check=False)
            container.start()
        is_awake(container)
        assert peer.ask(address(container)).startswith(f"{name} ")


KILLED_DISCARD = r"""
rm -f /run/fault
TORPOR_FAULT=$2=stop TORPOR_FAULT_FILE=/run/fault torpor discard "$1" &
until [ -s /run/fault ]; do sleep 0.05; done
kill -9 "$(cut -d' ' -f2 /run/fault)"
wait
"""


@pytest.mark.parametrize("moment", ["discarded", "unpublished", "disconnected", "unbridged"])
def test_a_killed_discard_is_finished_by_another(machine: Machine, moment: str) -> None:
    with networked(machine, "net-dropped", bridge(publish=["8094:7000"])) as container:
        container.stop()
        words = ("sh", "-c", KILLED_DISCARD, "sh", container.name, moment)
        machine.run("timeout", "20", *words, check=False)
        assert opened(machine) != ""
        machine.run("torpor", "discard", container.name)
        assert opened(machine) == ""


def test_one_that_runs_keeps_its_network_when_somebody_discards_its_memory(
    machine: Machine,
) -> None:
    with routed(machine) as peer, networked(machine, "net-runs", bridge()) as container:
        cycle(container)
        machine.run("torpor", "discard", container.name, check=False)
        assert peer.ask(address(container)).startswith("net-runs ")


def test_a_sleeper_whose_definition_is_gone_keeps_its_network_until_it_is_discarded(
    machine: Machine,
) -> None:
    with networked(machine, "net-orphan", bridge()) as container:
        before = identity(container)
        container.stop()
        definition = f"/etc/torpor/{container.name}.yaml"
        machine.run("mv", definition, "/run/definition")
        refuses(container)
        with networked(machine, "net-other", bridge()):
            pass
        machine.run("mv", "/run/definition", definition)
        container.start()
        is_awake(container)
        assert identity(container) == before
        container.stop()
        machine.run("rm", definition)
        machine.run("torpor", "discard", container.name)
        assert opened(machine) == ""


def test_doctor_names_what_is_nobodys(machine: Machine) -> None:
    made = "ip netns add torpor-nobody; ip link add tbidle type bridge;"
    machine.run("sh", "-ec", f"{made} ip link set tbidle alias torpor")
    try:
        said = machine.run("torpor", "doctor", check=False).stdout
        assert "nobody's any more: those of nobody" in said
        machine.run("ip", "netns", "delete", "torpor-nobody")
        said = machine.run("torpor", "doctor", check=False).stdout
        assert "nobody is on them: tbidle" in said
    finally:
        machine.run("sh", "-c", "ip netns delete torpor-nobody; ip link delete tbidle", check=False)


@pytest.mark.parametrize("moment", ["bridge", "wired", "published"])
def test_a_killed_configuration_fails_the_start_with_a_message(
    machine: Machine, moment: str
) -> None:
    container = Container(machine, f"net-{moment}")
    container.define(rootfs=ROOTFS, command=COMMAND, network=bridge(publish=["8088:7000"]))
    try:
        kill_at(container, "start", moment, "helper")
        text = container.journal()
        assert "network" in text and "Traceback" not in text
        assert container.property("ActiveState") == "failed"
        assert opened(machine) == ""
    finally:
        container.remove()


# What is wrong

WRONG = {
    "length": (bridge(subnet="10.77.0.0/33"), "subnet"),
    "host bits": (bridge(subnet="10.77.0.1/24"), "subnet"),
    "outside": (bridge(address="10.78.0.2"), "address"),
    "broadcast": (bridge(address="10.77.0.255"), "address"),
    "of the bridge": (bridge(address="10.77.0.1"), "address"),
    "multicast": (bridge(mac="01:00:5e:00:00:01"), "mac"),
    "mtu": (bridge(mtu=20), "mtu"),
    "port": (bridge(publish=["65536:80"]), "publish"),
    "port of a container": (bridge(publish=["8090:80"]), "publish"),
    "port of a process": (bridge(publish=["8091:80/tcp"]), "publish"),
    "address of a container": (bridge(address="10.77.0.99"), "address"),
    "16 bytes": ({**bridge(), "bridge": "b234567890123456"}, "bridge"),
    "no bridge": ({**bridge(), "bridge": "notbridge"}, "bridge"),
    "no cni": ({"cni": "not-there"}, "cni"),
    "nobody": ({"container": "net-nobody"}, "its net namespace is that of net-nobody"),
    "no path": ({"namespace": "/run/netns/not-there"}, "/run/netns/not-there"),
    "unknown": (bridge(adress="10.77.0.9"), "adress"),
}


@pytest.fixture(scope="module")
def occupied(machine: Machine) -> Iterator[None]:
    """A container with an address and port 8090, a process with port 8091, a device."""
    machine.run("ip", "link", "add", "notbridge", "type", "ifb")
    network = bridge(address="10.77.0.99", publish=["8090:7000"])
    try:
        with listening(machine, 8091), networked(machine, "net-occupies", network):
            yield
    finally:
        machine.run("ip", "link", "del", "notbridge", check=False)


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_key_and_nothing_is_configured(
    occupied: None, machine: Machine, case: str
) -> None:
    network, key = WRONG[case]
    container = Container(machine, f"net-wrong-{case.replace(' ', '-')}")
    container.define(rootfs=ROOTFS, command=COMMAND, network=network)
    before = opened(machine)
    try:
        text = refuses(container)
        assert key in text and re.search("net(work|ns| namespace)", text), text
        assert opened(machine) == before
    finally:
        container.remove()


def test_a_network_is_said_once(machine: Machine) -> None:
    container = Container(machine, "net-twice")
    container.define(rootfs=ROOTFS, command=COMMAND, network="host", namespaces={"net": "host"})
    text = refuses(container)
    assert "network" in text and "namespaces" in text
    container.remove()
