"""What a lease asks for is so in a real kernel: links, addresses, routes, published ports.

Each script runs in the machine, between namespaces that stand for containers and other hosts, and
prints what it found as JSON.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from machine import CommandFailed, Machine

# on(NAMESPACE) puts the thread into it; "" is the machine itself. A server greets with the address
# of its peer; ask() returns the greeting, or the name of the error.
PRELUDE = r"""
import json, os, socket, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from torpor import bridge, firewall, loopback, netns_status, process
from torpor.errors import TorporError
from torpor.lease import Lease, Publish

HERE = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

def sh(script, check=True):
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
    assert not check or not done.returncode, (script, done.stderr)
    return done.stdout.strip()

@contextmanager
def on(namespace):
    if not namespace:
        yield
        return
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        os.setns(there, os.CLONE_NEWNET)
        yield
    finally:
        os.setns(HERE, os.CLONE_NEWNET)
        os.close(there)

def lease(number, *publish, **changes):
    one = Lease("bridge", "tb0")
    one.device, one.mac = f"tor0000000{number}", f"0a:83:00:00:00:0{number}"
    one.address, one.address6 = f"10.88.0.{number}/24", f"fd88::{number}/64"
    one.gateway, one.gateway6 = "10.88.0.1", "fd88::1"
    one.bridge_address, one.bridge_address6 = "10.88.0.1/24", "fd88::1/64"
    one.publish = list(publish)
    for key, value in changes.items():
        setattr(one, key, value)
    return one

def start(number, *publish, hold=False, extra=None, **changes):
    one = lease(number, *publish, **changes)
    name = f"torpor-t{number}"
    sh(f"ip netns add {name}")
    warnings = bridge.build(one, name, hold=hold, extra=extra)
    firewall.masquerade(one)
    firewall.publish(f"t{number}", one)
    return name if extra is None else warnings

def remove(*numbers, bridge_name="tb0"):
    for number in numbers:
        firewall.remove(f"t{number}")
        sh(f"ip netns del torpor-t{number}", check=False)
        while os.path.exists(f"/sys/class/net/tor0000000{number}"):
            time.sleep(0.01)
    firewall.remove_bridge(bridge_name)
    bridge.remove_unused(bridge_name)

def outside(name="there", net="198.51.100", net6="2001:db8:51:"):
    sh(f'''
    ip netns add {name}
    ip link add to-{name} type veth peer name eth0 netns {name}
    ip addr add {net}.1/24 dev to-{name}; ip addr add {net6}:1/64 dev to-{name} nodad
    ip link set to-{name} addrgenmode none up
    ip -n {name} link set lo up
    ip -n {name} addr add {net}.2/24 dev eth0; ip -n {name} addr add {net6}:2/64 dev eth0 nodad
    ip -n {name} link set eth0 up
    ''')
    return name

def serve(namespace, port, host="::", kind=socket.SOCK_STREAM):
    with on(namespace):
        server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
    def stream():
        server.listen(16)
        while True:
            one, peer = server.accept()
            one.send(peer[0].removeprefix("::ffff:").encode())
            one.close()
    def datagrams():
        while True:
            _, peer = server.recvfrom(99)
            server.sendto(peer[0].removeprefix("::ffff:").encode(), peer)
    work = stream if kind == socket.SOCK_STREAM else datagrams
    if kind == socket.SOCK_STREAM:
        server.listen(16)
    threading.Thread(target=work, daemon=True).start()

def ask(namespace, host, port, kind=socket.SOCK_STREAM, source=""):
    with on(namespace):
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    client.settimeout(2 if kind == socket.SOCK_STREAM else 1)
    try:
        if source:
            client.bind((source, 0))
        client.connect((host, port))
        client.send(b"?")
        return client.recv(99).decode()
    except OSError as error:
        return type(error).__name__
    finally:
        client.close()

def tell(**found):
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)
"""
# All that can be left: links, addresses, routes, rules, namespaces.
LOOK = r"""
ip -j addr | sed 's/"[a-z]*_life_time":[0-9]*//g'; ip route show table all
ip -6 route show table all | sed 's/ expires [0-9]*sec//'
nft list ruleset; ip netns list | cut -d' ' -f1
"""
CLEAN = r"""
ip netns list | grep -oE '^(torpor-t|there|lan|router)[^ ]*' | xargs -r -n1 ip netns del
for device in tor00000002 tor00000003 tor00000004 to-there tb0 br-lan busy; do
    ip link del "$device" 2>/dev/null
done
nft list tables | grep -o 'inet torpor-.*' | xargs -r -L1 nft delete table
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
true
"""


@pytest.fixture(autouse=True)
def nothing_left(machine: Machine) -> Iterator[None]:
    """Each test finds what the one before found, and leaves it so."""
    before = machine.run("sh", "-c", LOOK).stdout
    yield
    machine.run("sh", "-c", CLEAN)
    after = machine.run("sh", "-c", LOOK).stdout
    assert after == before


def found(machine: Machine, script: str) -> dict[str, Any]:
    """What a script tells."""
    try:
        done = machine.run("python3", "-c", PRELUDE + script)
    except CommandFailed as error:
        raise AssertionError(error.stderr[-3000:]) from None
    return dict(json.loads(done.stdout))


def test_two_on_a_bridge_reach_each_other_the_host_and_nothing_else(machine: Machine) -> None:
    told = found(
        machine,
        """
a, b = start(2, mtu=1400), start(3)
serve(b, 80), serve("", 81)
link = json.loads(sh(f"ip -j -n {a} link show eth0"))[0]
tell(
    four=ask(a, "10.88.0.3", 80), six=ask(a, "fd88::3", 80),
    host=ask(a, "10.88.0.1", 81), host6=ask(a, "fd88::1", 81),
    mac=link["address"], mtu=link["mtu"],
    device=json.loads(sh("ip -j link show tor00000002"))[0],
    routes=sh(f"ip -n {a} route; ip -n {a} -6 route show default"),
    lo=sh(f"ip -n {a} -br addr show lo").split(),
    interfaces=sh(f"ip -n {a} -br link | wc -l"),
    tentative=sh(f"ip -n {a} addr show tentative"),
    address6=sh(f"ip -n {a} -6 addr show dev eth0 to fd88::2"),
)
""",
    )
    assert (told["four"], told["six"]) == ("10.88.0.2", "fd88::2")
    assert (told["host"], told["host6"]) == ("10.88.0.2", "fd88::2")
    assert (told["mac"], told["mtu"]) == ("0a:83:00:00:00:02", 1400)
    assert told["device"]["mtu"] == 1400 and told["device"]["ifalias"] == "torpor:t2"
    assert "default via 10.88.0.1 dev eth0" in told["routes"]
    assert "default via fd88::1 dev eth0" in told["routes"]
    assert told["lo"] == ["lo", "UNKNOWN", "127.0.0.1/8", "::1/128"]
    assert told["interfaces"] == "2" and told["tentative"] == ""
    assert "fd88::2/64 scope global nodad" in told["address6"]


def test_what_goes_out_goes_in_the_hosts_name_and_what_stays_does_not(machine: Machine) -> None:
    told = found(
        machine,
        """
a, b, there = start(2), start(3), outside()
# One that has no IPv6, and so must not take that of the others.
start(4, address6="", gateway6="", bridge_address6="")
serve(there, 80), serve(b, 80)
tell(out=ask(a, "198.51.100.2", 80), out6=ask(a, "2001:db8:51::2", 80), by=ask(a, "10.88.0.3", 80))
""",
    )
    assert told == {"out": "198.51.100.1", "out6": "2001:db8:51::1", "by": "10.88.0.2"}


@pytest.mark.parametrize("filters_bridges", ["1", "0"])
def test_a_published_port_answers_from_everywhere(machine: Machine, filters_bridges: str) -> None:
    told = found(
        machine,
        f"""
for family in ("ip", "ip6"):
    sh(f"sysctl -w net.bridge.bridge-nf-call-{{family}}tables={filters_bridges}")
UDP = socket.SOCK_DGRAM
a = start(2, Publish("", 8080, 80, "tcp"), Publish("", 5353, 53, "udp"),
          Publish("198.51.100.1", 8081, 80, "tcp"))
b, there = start(3), outside()
serve(a, 80), serve(a, 53, kind=UDP)
tell(
    outside=ask(there, "198.51.100.1", 8080), outside6=ask(there, "2001:db8:51::1", 8080),
    udp=ask(there, "198.51.100.1", 5353, UDP), loopback_udp=ask("", "127.0.0.1", 5353, UDP),
    loopback=ask("", "127.0.0.1", 8080), host=ask("", "198.51.100.1", 8080),
    bridge=ask("", "10.88.0.1", 8080), host6=ask("", "2001:db8:51::1", 8080),
    sibling=ask(b, "198.51.100.1", 8080), sibling6=ask(b, "2001:db8:51::1", 8080),
    itself=ask(a, "10.88.0.1", 8080), itself6=ask(a, "fd88::1", 8080),
    itself_udp=ask(a, "198.51.100.1", 5353, UDP),
    one=ask(there, "198.51.100.1", 8081), other=ask("", "10.88.0.1", 8081),
    loopback6=ask("", "::1", 8080),
)
""",
    )
    assert told == {
        # Others keep their names; the container's own neighbours and the loopback cannot.
        **{"outside": "198.51.100.2", "outside6": "2001:db8:51::2", "udp": "198.51.100.2"},
        **{"loopback": "10.88.0.1", "loopback_udp": "10.88.0.1", "host": "198.51.100.1"},
        **{"bridge": "10.88.0.1", "host6": "2001:db8:51::1"},
        **{"sibling": "10.88.0.1", "sibling6": "fd88::1"},
        **{"itself": "10.88.0.1", "itself6": "fd88::1", "itself_udp": "10.88.0.1"},
        **{"one": "198.51.100.2", "other": "ConnectionRefusedError"},
        **{"loopback6": "ConnectionRefusedError"},
    }


# Make a namespace send packets for 127.0.0.1 to a gateway.
FORGE = """
def forge(namespace, gateway):
    sh(f"ip -n {namespace} route del local 127.0.0.0/8 dev lo table local; "
       f"ip -n {namespace} route del local 127.0.0.1 dev lo table local; "
       f"ip -n {namespace} addr del 127.0.0.1/8 dev lo; "
       f"ip netns exec {namespace} sysctl -w net.ipv4.conf.eth0.route_localnet=1; "
       f"ip -n {namespace} route add 127.0.0.0/8 via {gateway}")
"""


def test_nobody_reaches_the_hosts_loopback_or_what_is_published_only_there(
    machine: Machine,
) -> None:
    told = found(
        machine,
        FORGE
        + """
a, b, there = start(2, Publish("127.0.0.1", 8080, 80, "tcp")), start(3), outside()
serve(a, 80), serve("", 9999, host="127.0.0.1")
own = ask("", "127.0.0.1", 8080), ask("", "127.0.0.1", 9999)
forge(b, "10.88.0.1"), forge(there, "198.51.100.1")
tries = [(b, "127.0.0.1", port, socket.SOCK_STREAM, "10.88.0.3") for port in (8080, 9999)]
tries += [(there, "127.0.0.1", port, socket.SOCK_STREAM, "198.51.100.2") for port in (8080, 9999)]
with ThreadPoolExecutor() as pool:
    forged = list(pool.map(lambda words: ask(*words), tries))
tell(own=own, forged=forged, by_address=ask(there, "198.51.100.1", 8080))
""",
    )
    assert told["own"] == ["10.88.0.1", "127.0.0.1"]
    assert told["forged"] == ["TimeoutError"] * 4
    assert told["by_address"] == "ConnectionRefusedError"


def test_one_whose_link_is_held_hears_nothing_until_it_is_let_go(machine: Machine) -> None:
    told = found(
        machine,
        """
a, b = start(2, hold=True), start(3)
serve(a, 80)
routes = sh(f"ip -n {a} route show default; ip -n {a} -6 route show default")
held = ask(b, "10.88.0.2", 80)
loopback.set_up("tor00000002")
tell(held=held, four=ask(b, "10.88.0.2", 80), six=ask(b, "fd88::2", 80), routes=routes)
""",
    )
    assert told["held"] in ("OSError", "TimeoutError")
    assert (told["four"], told["six"]) == ("10.88.0.3", "fd88::3")
    assert "via 10.88.0.1" in told["routes"] and "via fd88::1" in told["routes"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ('mac="01:00:00:00:00:01"', "network: mac: 01:00:00:00:00:01: Cannot assign"),
        ("mtu=70000", "network: mtu: 70000: Invalid argument (mtu greater than device maximum)"),
        ('gateway="10.88.0.255", bridge_address=""', "network: gateway: 10.88.0.255: Invalid"
         " argument (Nexthop has"),
        ('interface="lo"', "network: bridge: tor00000002 and its peer lo cannot be made: "),
        ('bridge_address="198.51.100.9/24"', "network: subnet: 198.51.100.0/24: interface to-there"
         " of this host has 198.51.100.1/24 already"),
        ('bridge_address6="2001:db8:51::9/48"', "network: ipv6: 2001:db8:51::/48: interface"
         " to-there of this host has 2001:db8:51::1/64 already"),
        ('network="busy"', "network: bridge: busy is an interface of this host, and no bridge"),
        ('network="a" * 20', "network: bridge: "),
        ('network="br-lan", bridge_address="10.88.0.1/24"', "network: subnet: 10.88.0.0/24:"
         " interface br-lan of this host has 10.88.0.1/25 already"),
        ('network="br-lan", mtu=70000', "network: mtu: 70000: "),
    ],
)  # fmt: skip
def test_one_that_fails_says_which_key_and_leaves_nothing(
    machine: Machine, changes: str, words: str
) -> None:
    told = found(
        machine,
        f"""
outside()
sh("ip link add busy type veth peer name busy-too")
# One that was never up has another qdisc, which nobody can give back to it.
sh("ip link add br-lan type bridge; ip addr add 10.88.0.1/25 dev br-lan")
sh("ip link set br-lan up; ip link set br-lan down")
sh("ip netns add torpor-t2")
LOOK = {LOOK!r}
one = lease(2, **{{"bridge_address": "10.89.0.1/24", **dict({changes})}})
before = sh(LOOK)
try:
    bridge.build(one, "torpor-t2")
    said = "nothing"
except TorporError as error:
    said = error.message
after = sh(LOOK)
with on("torpor-t2"):
    inside = sh("ip -o link | grep -v 'lo:' | wc -l")
tell(said=said, left=[line for line in after.splitlines() if line not in before], inside=inside)
""",
    )
    assert told["said"].startswith(words)
    assert told["left"] == [] and told["inside"] == "0"


def test_a_bridge_goes_with_the_last_on_it_and_never_somebody_elses(machine: Machine) -> None:
    told = found(
        machine,
        """
sh("ip link add br-lan type bridge")
start(2), start(3), start(4, network="br-lan", bridge_address="", bridge_address6="")
there = lambda: [name for name in ("tb0", "br-lan") if os.path.exists(f"/sys/class/net/{name}")]
remove(2)
one = there(), sh("nft list tables")
remove(3), remove(4, bridge_name="br-lan")
none = there()
remove(3), remove(4, bridge_name="br-lan"), remove(9, bridge_name="not-there")
tell(one=one, none=none, tables=sh("nft list tables"))
""",
    )
    assert told["one"][0] == ["tb0", "br-lan"]
    assert told["none"] == ["br-lan"]
    assert "torpor" not in told["tables"]


def test_a_port_is_published_on_somebody_elses_bridge_with_another_gateway(
    machine: Machine,
) -> None:
    told = found(
        machine,
        """
there = outside()
# A router is the container's way out, and the host has only an address of its own there.
sh('''
ip link add br-lan type bridge; ip addr add 192.0.2.9/24 dev br-lan; ip link set br-lan up
ip netns add router; ip link add to-there2 type veth peer name eth0 netns router
ip link set to-there2 master br-lan up; ip -n router addr add 192.0.2.1/24 dev eth0
ip -n router link set eth0 up; sysctl -w net.ipv4.ip_forward=1
''')
lan = dict(network="br-lan", address="192.0.2.50/24", gateway="192.0.2.1", bridge_address="",
           address6="", gateway6="", bridge_address6="")
a = start(2, Publish("", 8080, 80, "tcp"), **lan)
serve(a, 80)
try:
    firewall.publish("t2", lease(2, Publish("127.0.0.1", 8080, 80, "tcp"), **lan))
    said = ""
except TorporError as error:
    said = error.message
tell(outside=ask(there, "198.51.100.1", 8080), beside=ask("router", "192.0.2.9", 8080),
     host=ask("", "192.0.2.9", 8080), direct=ask("router", "192.0.2.50", 80),
     tables=sh("nft list tables"), addresses=sh("ip -br -4 addr show br-lan").split()[2:],
     localnet=sh("sysctl -n net.ipv4.conf.br-lan.route_localnet"), said=said)
""",
    )
    assert told["outside"] == told["beside"] == told["host"] == "192.0.2.9"
    assert told["direct"] == "192.0.2.1"
    assert "torpor-bridge" not in told["tables"] and told["addresses"] == ["192.0.2.9/24"]
    assert told["localnet"] == "0"
    assert "connections to 127.0.0.1 cannot leave the host" in told["said"]


ADDED = """
ip addr add 10.88.0.77/24 dev eth0
ip addr add 172.31.0.1/32 dev lo
ip addr add 172.30.0.1 peer 172.30.0.2/32 dev eth0
ip addr add fd99::5/64 dev eth0 nodad noprefixroute
ip addr add 10.66.0.5/24 brd 10.66.0.255 dev eth0 valid_lft 5000 preferred_lft 4000
ip route add 10.55.0.0/16 via 10.88.0.9 metric 7 mtu 1300 src 10.88.0.77
ip route add 10.54.0.0/16 via 10.99.9.9 dev eth0 onlink proto static
ip route add blackhole 10.53.0.0/16
ip route replace default via 10.88.0.3
ip -6 route add fd55::/32 via fd88::9 metric 50
ip -6 route add unreachable fd53::/32
ip link set eth0 mtu 1350
"""


def test_one_made_anew_has_what_it_had_beyond_its_lease(machine: Machine) -> None:
    told = found(
        machine,
        f"""
a = start(2)
with on(a):
    sh({ADDED!r})
def status():
    # Each number of seconds is different a second later.
    text = netns_status.save(a).decode().splitlines()
    links = json.loads(text[0])
    addresses = [{{**info, "valid_life_time": info["valid_life_time"] > 4000,
                  "preferred_life_time": info["preferred_life_time"] > 3000}}
                 for link in links for info in link["addr_info"]]
    mtus = [(link["ifname"], link["mtu"]) for link in links]
    order = lambda one: json.dumps(one)
    routes = [sorted(json.loads(line), key=order) for line in text[1:]]
    return [sorted(addresses, key=order), mtus, *routes]
before, saved = status(), netns_status.save(a)
remove(2)
warnings = start(2, extra=netns_status.parse(saved))
time.sleep(0.1)
tell(before=before, after=status(), warnings=warnings)
""",
    )
    assert told["warnings"] == []
    for before, after in zip(told["before"], told["after"], strict=True):
        assert after == before
    assert len(told["before"][0]) == 10 and len(told["before"][2]) > 6


def test_what_cannot_be_made_again_is_warned_of_and_no_fault(machine: Machine) -> None:
    told = found(
        machine,
        """
a = start(2)
with on(a):
    sh('''
    ip link add veth7 type veth peer name veth8; ip link set veth7 up; ip link set veth8 up
    ip addr add 10.44.0.1/24 dev veth7; ip route add 10.45.0.0/16 via 10.44.0.9
    ip route add 10.55.0.0/16 nexthop via 10.88.0.8 nexthop via 10.88.0.9
    ip route add 10.56.0.0/16 via 10.88.0.7
    ''')
saved = netns_status.save(a)
remove(2)
extra = netns_status.parse(saved)
[one] = [route for route in extra.routes if route.destination == "10.56.0.0/16"]
one.gateway = "192.0.2.77"
tell(warnings=start(2, extra=extra), routes=sh("ip -n torpor-t2 route"))
""",
    )
    warnings = "\n".join(told["warnings"])
    assert "a route to '10.55.0.0/16' is not made again: it has 'nexthops'" in warnings
    assert "interface 'veth7' is not made again" in warnings
    assert "network: gateway: route 10.56.0.0/16 via 192.0.2.77" in warnings
    assert len(told["warnings"]) == 4, warnings
    assert "default via 10.88.0.1 dev eth0" in told["routes"]


def test_routers_are_believed_on_who_were_and_no_container_is_one(machine: Machine) -> None:
    told = found(
        machine,
        """
outside(), outside("there2", "203.0.113", "2001:db8:52:")
ra = lambda name: sh(f"sysctl -n net.ipv6.conf.{name}.accept_ra")
sh("sysctl -w net.ipv6.conf.to-there2.accept_ra=0 net.ipv6.conf.to-there.accept_ra=1")
a = start(2)
first = [ra(name) for name in ("to-there", "to-there2", "tb0")]
sh("sysctl -w net.ipv6.conf.to-there.accept_ra=1")
start(3)
tell(first=first, again=ra("to-there"), forwarding=sh("sysctl -n net.ipv6.conf.all.forwarding"),
     forwarding4=sh("sysctl -n net.ipv4.ip_forward"),
     inside=sh(f"ip netns exec {a} sysctl -n net.ipv6.conf.eth0.accept_ra"))
""",
    )
    assert told["first"] == ["2", "0", "0"]
    assert told["again"] == "1", "an administrator's later choice is not touched"
    assert (told["forwarding"], told["forwarding4"], told["inside"]) == ("1", "1", "0")


def test_a_port_that_a_process_has_is_in_use(machine: Machine) -> None:
    told = found(
        machine,
        """
outside()
UDP = socket.SOCK_DGRAM
serve("", 7001, host="127.0.0.1"), serve("", 7002), serve("", 7003, host="127.0.0.1", kind=UDP)
ended = socket.create_server(("127.0.0.1", 7004))
client = socket.create_connection(("127.0.0.1", 7004))
ended.accept()[0].close(), client.recv(1), client.close(), ended.close()
used = lambda *words: firewall.port_in_use(Publish(*words))
tell(
    yes=[used("", 7001, 1, "tcp"), used("127.0.0.1", 7001, 1, "tcp"), used("", 7002, 1, "tcp"),
         used("198.51.100.1", 7002, 1, "tcp"), used("::1", 7002, 1, "tcp"),
         used("", 7003, 1, "udp")],
    no=[used("198.51.100.1", 7001, 1, "tcp"), used("", 7001, 1, "udp"), used("", 7003, 1, "tcp"),
        used("::1", 7001, 1, "tcp"), used("", 7004, 1, "tcp"), used("192.0.2.200", 1, 1, "tcp"),
        used("", 7001, 1, "sctp")],
    waiting=sh("ss -tan state time-wait | grep -c :7004"),
)
""",
    )
    assert told["yes"] == [True] * 6
    assert told["no"] == [False] * 7
    assert int(told["waiting"]) >= 1


def test_without_nft_only_what_needs_it_fails(machine: Machine) -> None:
    told = found(
        machine,
        """
sh("mkdir -p /tmp/none")
path, os.environ["PATH"] = os.environ["PATH"], "/tmp/none"
quiet = firewall.remove("t2"), firewall.remove_bridge("tb0")
firewall.publish("t2", lease(2))
said = []
for step in (lambda: firewall.publish("t2", lease(2, Publish("", 1, 1, "tcp"))),
             lambda: firewall.masquerade(lease(2))):
    try:
        step()
    except TorporError as error:
        said.append([error.message, error.hint])
tell(quiet=quiet, said=said)
""",
    )
    assert told["quiet"] == [[], []]
    assert [words[1] for words in told["said"]] == ["install nftables"] * 2
    assert "network: publish" in told["said"][0][0]


@pytest.mark.parametrize("is_whole", [False, True])
def test_pyroute2_does_the_same_in_part_and_as_a_whole(machine: Machine, is_whole: bool) -> None:
    told = found(
        machine,
        f"""
if {is_whole}:
    # What another version may do: need something of the package itself.
    stand_in = bridge._stand_in_for
    def spoiled(package):
        stand_in(package)
        sys.modules["pyroute2.iproute"] = None
    bridge._stand_in_for = spoiled
a = start(2)
serve(a, 80)
tell(whole="pyroute2.ndb.main" in sys.modules, said=ask("", "10.88.0.2", 80))
""",
    )
    assert told == {"whole": is_whole, "said": "10.88.0.1"}


def test_a_namespace_of_mapped_ids_is_configured_too(machine: Machine) -> None:
    told = found(
        machine,
        """
inner = subprocess.Popen(["unshare", "-U", "-n", "sleep", "60"])
while os.readlink(f"/proc/{inner.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)
sh(f"ip netns attach torpor-t2 {inner.pid}")
bridge.build(lease(2), "torpor-t2")
serve("torpor-t2", 80)
said = ask("", "10.88.0.2", 80), ask("", "fd88::2", 80)
inner.kill(), inner.wait()
tell(said=said, ra=sh("ip netns exec torpor-t2 sysctl -n net.ipv6.conf.eth0.accept_ra"))
""",
    )
    assert told == {"said": ["10.88.0.1", "fd88::1"], "ra": "0"}
