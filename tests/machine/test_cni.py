"""CNI networks, by the plugins of containernetworking-plugins and by some that misbehave."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from test_network import address, fresh, identity, inode, is_awake, networked, opened, refuses

from containers import Container
from cycle import cycle, within
from machine import Machine
from netpeers import COMMAND, HERE, ROOTFS, THERE, ip, make_rootfs, namespace, routed

LAN = "ct-lan"
POINT = "ct-point"  # its plugin takes no wish for a MAC address
LIMITED = "ct-limited"  # its first plugin says no as long as REFUSAL holds why
REFUSAL = "/run/ct-refusal"
LATER = '{"cniVersion": "1.0.0", "code": 11, "msg": "try again later"}'
ADDED = "/run/ct-added"

# All that plugins can leave of a container; bridges and chains that all share they never remove.
LEFT = r"""
ip -br link | grep -v ^ctbr; nft -s list ruleset | grep -E 'CNI-(DN-)?[0-9a-f]{20}|dnat to'
ip netns list; ls -A /run/netns; find /var/lib/cni/networks -name '*.*.*.*'
find /var/lib/torpor/.cni /run/torpor/.networks -mindepth 1
true
"""
# And all that they can change. A bridge has another state as long as the kernel removes a port.
LOOK = r"""
ip -j addr | grep -oE '"(ifname|local|prefixlen|address)":[^,}]*'; nft -s list ruleset
for family in -4 -6; do ip $family route show table all | sed 's/ linkdown//'; done
"""
# Plugins of our own. Those that hang do so at ADD alone.
PLUGINS = {
    "ct-limited": f"""
if [ "$CNI_COMMAND" = ADD ] && [ -e {REFUSAL} ]; then cat {REFUSAL}; exit 1; fi
exec /usr/lib/cni/bridge
""",
    "ct-hang": '[ "$CNI_COMMAND" != ADD ] || sleep 300',
    "ct-nonsense": "echo '<html>no such page</html>'",
    "ct-list": "echo '[1, 2]'",
    "ct-silent": "exit 7",
    "ct-refuses": f"echo '{LATER}'; exit 1",
    "ct-endless": '[ "$CNI_COMMAND" != ADD ] || exec yes',
    "ct-slow": f'[ "$CNI_COMMAND" != ADD ] || {{ sleep 1; touch {ADDED}; }}',
}


def ipam(subnet: str) -> dict[str, object]:
    return {"type": "host-local", "subnet": subnet, "routes": [{"dst": "0.0.0.0/0"}]}


def on_bridge(kind: str = "bridge", number: int = 91, **keys: object) -> dict[str, object]:
    made = {"type": kind, "bridge": f"ctbr{number - 91}", "isGateway": True, "ipMasq": True}
    return {**made, "ipam": ipam(f"10.{number}.0.0/24"), **keys}


PORTS = {"type": "portmap", "capabilities": {"portMappings": True}}
NETWORKS = {
    LAN: [on_bridge(), PORTS],
    POINT: [{"type": "ptp", "ipMasq": True, "ipam": ipam("10.92.0.0/24")}, PORTS],
    # The plugin bridge forgets its rules for who lost its namespace, so none.
    LIMITED: [on_bridge("ct-limited", 93, ipMasq=False)],
    **{name: [{"type": name}] for name in (*PLUGINS, "ct-missing") if name != LIMITED},
    "ct-half": [on_bridge(), {"type": "ct-refuses"}],
}


@pytest.fixture(scope="module", autouse=True)
def networks(machine: Machine) -> Iterator[None]:
    make_rootfs(machine)
    for name, script in PLUGINS.items():
        machine.write(f"/opt/cni/bin/{name}", f"#!/bin/sh\n{script}\n", 0o755)
    for name, plugins in NETWORKS.items():
        said = {"cniVersion": "1.0.0", "name": name, "plugins": plugins}
        machine.write(f"/etc/cni/net.d/50-{name}.conflist", json.dumps(said))
    for network in (LAN, POINT, LIMITED):  # makes what they make once
        ports = [] if network == LIMITED else ["8189:7000"]
        with networked(machine, "cni-first", {"cni": network, "publish": ports}) as container:
            fresh(container)
    yield
    remove = "rm -rf /etc/cni/net.d/50-ct-* /opt/cni/bin/ct-* /var/lib/cni; ip link del ctbr0;"
    machine.run("sh", "-c", f"{remove} ip link del ctbr2; nft flush ruleset", check=False)


@pytest.fixture(autouse=True)
def nothing_left(machine: Machine, networks: None) -> Iterator[None]:
    before = look(machine, LEFT)
    yield
    assert settled(machine, before, LEFT) == before


def look(machine: Machine, script: str = LOOK + LEFT) -> list[str]:
    found = machine.run("sh", "-c", script).stdout
    return [" ".join(line.split()) for line in found.splitlines()]


def settled(machine: Machine, before: list[str], script: str = LOOK + LEFT) -> list[str]:
    """What there is when the kernel, which removes devices a little later, had its time."""
    deadline_s = time.monotonic() + 2
    while (after := look(machine, script)) != before and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return after


def at_home(container: Container) -> None:
    """Its address is what its names say, and leads out and back."""
    hosts = " ".join(within(container, "cat /etc/hosts").split())
    assert f"{address(container)} {container.name}" in hosts
    within(container, "/bin/busybox ping -c 1 -W 3 " + HERE)


def test_it_has_the_same_network_after_a_wake_with_an_emptied_firewall_and_after_a_reboot(
    machine: Machine,
) -> None:
    with ExitStack() as stack:
        peer = stack.enter_context(routed(machine))
        published = {"cni": LAN, "publish": ["8190:7000"]}
        lan = stack.enter_context(networked(machine, "cni-lan", published))
        point = stack.enter_context(networked(machine, "cni-point", {"cni": POINT}))
        assert address(lan).startswith("10.91.0.") and address(point).startswith("10.92.0.")
        ip(lan, "addr", "add", "10.88.0.5/16", "dev", "eth0")
        ip(lan, "route", "add", "192.0.2.0/24", "via", "10.91.0.1")
        ip(lan, "link", "set", "dev", "eth0", "mtu", "1400")
        before = [identity(lan), identity(point)]
        assert "192.0.2.0/24 via 10.91.0.1 dev eth0" in before[0] and "mtu 1400" in before[0]
        for container in (lan, point):
            at_home(container)
            was = inode(container)
            cycle(container)
            assert inode(container) == was  # nothing of it had to be made again
        assert peer.ask(HERE, 8190) == f"cni-lan {THERE}"
        lan.stop()
        machine.run("nft", "flush", "ruleset")
        lan.start()
        is_awake(lan)
        assert peer.ask(HERE, 8190) == f"cni-lan {THERE}"
        for container in (lan, point):
            container.stop()
        machine.reboot()
        peer = stack.enter_context(routed(machine))
        for container in (lan, point):
            container.start()
            is_awake(container)
            at_home(container)
        assert [identity(lan), identity(point)] == before
        assert peer.ask(HERE, 8190) == f"cni-lan {THERE}"
        fresh(lan)
        assert "cni-lan" not in peer.ask(HERE, 8190)


def test_an_address_and_a_mac_are_those_that_are_asked_for(machine: Machine) -> None:
    wish = {"cni": LAN, "address": "10.91.0.77", "mac": "02:00:00:00:91:77"}
    with networked(machine, "cni-asks", wish) as container:
        assert address(container) == "10.91.0.77"
        assert "eth0 UP 02:00:00:00:91:77" in "\n".join(identity(container))


def test_connections_are_kept_where_that_is_asked(machine: Machine) -> None:
    keep = {"checkpoint": {"tcp": "keep"}}
    with routed(machine) as peer, networked(machine, "cni-keep", {"cni": LAN}, **keep) as container:
        talk = peer.talk(address(container))
        assert talk.say("hello") == "hello"
        cycle(container)
        assert talk.say("again") == "again"
        talk.end()


# At a wake


def without_namespace(container: Container) -> None:
    container.stop()
    container.machine.run("ip", "netns", "delete", namespace(container))


def test_who_is_told_to_try_later_sleeps_on_until_then(machine: Machine) -> None:
    with networked(machine, "cni-later", {"cni": LIMITED}) as container:
        before = identity(container)
        without_namespace(container)
        machine.write(REFUSAL, LATER)
        text = refuses(container)
        assert "plugin ct-limited of network ct-limited, asked to ADD: try again later" in text
        assert container.state() == "READY"
        # What was made for it stays, not configured, and the kernel may have given it the number
        # of the namespace that was deleted.
        machine.run("test", "!", "-e", f"/run/torpor/.standing/{container.name}")
        machine.run("rm", REFUSAL)
        container.start()
        is_awake(container)
        assert identity(container) == before


@contextmanager
def displaced(machine: Machine, name: str, policy: str) -> Iterator[Container]:
    """A sleeper whose address another has: somebody removed it from what host-local knows."""
    keys = {"checkpoint": {"restore-failure": policy}}
    with networked(machine, name, {"cni": LIMITED}, **keys) as container:
        taken = address(container)
        without_namespace(container)
        machine.run("rm", f"/var/lib/cni/networks/{LIMITED}/{taken}")
        thief = {"cni": LIMITED, "address": taken}
        with networked(machine, f"{name}-thief", thief) as other:
            yield container
            assert address(other) == taken


def test_what_becomes_of_who_lost_its_address_is_the_policys_to_say(machine: Machine) -> None:
    with displaced(machine, "cni-lost", "fail") as container:
        assert "not available" in refuses(container)
        assert container.state() == "READY"
    with displaced(machine, "cni-moved", "start-fresh") as container:
        container.start()
        assert container.property("StatusText").startswith("started fresh"), container.journal()
        assert "not available" in container.journal()


# What is wrong


WRONG: dict[str, tuple[str, dict[str, object], str]] = {
    "missing": ("ct-missing", {}, "plugin ct-missing of network ct-missing is not in"),
    "hang": ("ct-hang", {}, "plugin ct-hang of network ct-hang, asked to ADD: it did not end"),
    "nonsense": ("ct-nonsense", {}, "what it printed is no result"),
    "list": ("ct-list", {}, "what it printed is no result"),
    "silent": ("ct-silent", {}, "ended with status 7 and gave no reason"),
    "refuses": ("ct-refuses", {}, "asked to ADD: try again later"),
    "endless": ("ct-endless", {}, "plugin ct-endless of network ct-endless"),
    "half": ("ct-half", {}, "plugin ct-refuses of network ct-half, asked to ADD: try again"),
    "no ports": (LIMITED, {"publish": ["8191:80"]}, "no plugin of CNI network ct-limited publish"),
    "mac": (POINT, {"mac": "02:00:00:00:92:09"}, "mac: CNI network ct-point gave"),
    "address": (LAN, {"address": "10.99.0.9"}, "10.99.0.9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_message_and_nothing_is_configured(
    machine: Machine, case: str
) -> None:
    network, keys, said = WRONG[case]
    container = Container(machine, f"cni-wrong-{case.replace(' ', '-')}")
    container.define(rootfs=ROOTFS, command=COMMAND, network={"cni": network, **keys})
    before = look(machine)
    try:
        text = refuses(container)
        assert "network: " in text and said in text, text
        assert settled(machine, before) == before
    finally:
        container.remove()


def test_a_plugin_of_a_start_that_failed_does_not_go_on(machine: Machine) -> None:
    container = Container(machine, "cni-abandoned")
    container.define(rootfs=ROOTFS, command=["/bin/none"], network={"cni": "ct-slow"})
    machine.run("rm", "-f", ADDED)
    try:
        assert "/bin/none" in refuses(container)
        time.sleep(1.2)
        assert machine.run("test", "-e", ADDED, check=False).returncode
    finally:
        container.remove()


# Its end


def discarded(container: Container) -> None:
    container.stop()
    container.machine.run("torpor", "discard", container.name)


def cleaned(container: Container) -> None:
    container.stop()
    container.machine.run("systemctl", "clean", "--what=state", container.unit)
    with networked(container.machine, "cni-beside", {"cni": POINT}):
        pass  # whoever starts next


@pytest.mark.parametrize("end", [fresh, discarded, cleaned])
def test_plugins_are_told_of_its_end(machine: Machine, end: Callable[[Container], None]) -> None:
    before = look(machine, LEFT)
    published = {"cni": LAN, "publish": ["8192:7000"]}
    with networked(machine, "cni-ends", published) as container:
        end(container)
        assert opened(machine) == ""
        assert settled(machine, before, LEFT) == before
