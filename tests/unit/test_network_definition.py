"""What a definition says of a network: read, or refused in its line; and what is made of it."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendered import BUNDLE, ROOTFS, RUN, define, made, made_of, mount_at, runc_spec

from fuzz import cases
from torpor import lease, name_files, network, preparation, rendering, spec
from torpor.container import Container
from torpor.definition import Definition
from torpor.errors import DefinitionError
from torpor.idmap import IdMap, Range
from torpor.last_rendering import Inputs
from torpor.namespaces import Namespace
from torpor.network import Network, Port
from torpor.values import WrongError
from torpor.yaml_tree import Mapping, Node, Scalar, Sequence

MAPPED = "idmap: 0:100000:65536\n"
MAP = IdMap((Range(0, 100000, 65536),), (Range(0, 100000, 65536),))


def said(words: str) -> Network:
    found = define(f"network: {words}\n").network
    assert found is not None
    return found


def refused(text: str) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        define(text)
    return caught.value


def problem(*lines: str) -> tuple[int, str, str]:
    """The line in the mapping that is to blame, what is wrong with it, and the hint."""
    error = refused("network:\n" + "".join(f"  {line}\n" for line in lines))
    place, _, message = error.message.partition(" key 'network': ")
    assert message, error.message
    first = ROOTFS.count("\n") + 1
    return int(place.split(":")[1]) - first, message, error.hint


def test_without_a_word_of_it_a_network_is_what_it_was() -> None:
    definition = define()
    assert (definition.network, definition.namespaces) == (None, {})
    assert not definition.checkpoint.tcp_keep


@pytest.mark.parametrize(
    ("words", "found", "namespace"),
    [
        ("host", Network("host"), Namespace("host")),
        ("none", Network("none"), Namespace("own")),
        ("{container: db}", Network("container", "db"), Namespace("container", "db")),
        ("{namespace: /run//n}", Network("namespace", "/run/n"), Namespace("path", "/run/n")),
        ("{bridge: br0}", Network("bridge", "br0"), None),
        ("{cni: lan.1}", Network("cni", "lan.1"), None),
    ],
)
def test_each_kind_is_read_and_is_the_namespace_that_it_names(
    words: str, found: Network, namespace: Namespace | None
) -> None:
    definition = define(f"namespaces: {{ipc: own}}\nnetwork: {words}\n")
    assert definition.network == found
    assert definition.namespaces.get("net") == namespace
    assert definition.namespaces["ipc"] == Namespace("own")


FULL = """{bridge: br0, subnet: 10.1.2.0/24, address: 10.1.2.9, gateway: 10.1.2.254, mtu: 1400,
  mac: 02:AA:0:0:0:1, ipv6: 'fd00:0::9/64', publish: 80:8080}""".replace(":0:0:0:1", ":00:00:00:01")


def test_all_of_a_bridge_is_read_in_its_canonical_form() -> None:
    assert said(FULL) == Network(
        kind="bridge",
        name="br0",
        subnet="10.1.2.0/24",
        address="10.1.2.9/24",
        gateway="10.1.2.254",
        mac="02:aa:00:00:00:01",
        mtu=1400,
        subnet6="fd00::/64",
        address6="fd00::9/64",
        publish=(Port("", 80, 8080),),
    )


@pytest.mark.parametrize(
    ("words", "subnet", "address"),
    [
        ("address: 10.1.2.9/24", "10.1.2.0/24", "10.1.2.9/24"),
        ("subnet: 10.1.2.0/24, address: 10.1.2.9", "10.1.2.0/24", "10.1.2.9/24"),
        ("subnet: 10.1.2.0/24, address: 10.1.2.9/24", "10.1.2.0/24", "10.1.2.9/24"),
        ("subnet: 10.1.2.0/24, address: auto", "10.1.2.0/24", ""),
        ("subnet: 10.1.2.0/24", "10.1.2.0/24", ""),
        ("subnet: 10.0.0.0/30, address: 10.0.0.2", "10.0.0.0/30", "10.0.0.2/30"),
        ("address: 10.1.2.1/24, gateway: 10.1.2.2", "10.1.2.0/24", "10.1.2.1/24"),
        ("address: auto", "", ""),
    ],
)
def test_of_subnet_and_address_the_one_follows_from_the_other(
    words: str, subnet: str, address: str
) -> None:
    found = said(f"{{bridge: br0, {words}}}")
    assert (found.subnet, found.address) == (subnet, address)


@pytest.mark.parametrize(
    ("words", "subnet", "address"),
    [
        ("FD00:0::/64", "fd00::/64", ""),
        ("fd00::80/64", "fd00::/64", "fd00::80/64"),
        ("2001:db8::2/126", "2001:db8::/126", "2001:db8::2/126"),
    ],
)
def test_ipv6_is_a_subnet_or_an_address_in_one(words: str, subnet: str, address: str) -> None:
    found = said(f"{{bridge: br0, ipv6: '{words}'}}")
    assert (found.subnet6, found.address6) == (subnet, address)


WRONG = [  # a key of a bridge, and the beginnings of what is wrong with it
    *(
        ("subnet", words, "subnet: ")
        for words in ("10.0.0.0", "10.0.0.0/33", "10.0.0/24", "10.0.0.0/", "10.0.0.0/255.0.0.0")
    ),
    ("subnet", "10.0.0.0/-1", "subnet: '10.0.0.0/-1' has a wrong length"),
    ("subnet", "10.0.0.0/²", "subnet: "),
    ("subnet", "[10.0.0.0/24]", "subnet: is a list"),
    ("subnet", "", "subnet: has no value"),
    ("subnet", "10.0.0.5/24", "subnet: 10.0.0.5/24 is an address in a subnet"),
    ("subnet", "10.0.0.0/31", "subnet: 10.0.0.0/31 is too small"),
    ("subnet", "10.0.0.0/32", "subnet: 10.0.0.0/32 is too small"),
    ("subnet", "'fd00::/64'", "subnet: fd00:: is an IPv6 address"),
    *(
        ("subnet", words, f"subnet: {words} holds addresses that no host can have")
        for words in ("127.0.0.0/8", "224.0.0.0/24", "0.0.0.0/0", "240.0.0.0/4", "0.0.0.0/24")
    ),
    ("ipv6", "'127::1'", "ipv6: '127::1' has no length"),
    ("ipv6", "10.0.0.0/24", "ipv6: 10.0.0.0 is an IPv4 address"),
    ("ipv6", "'fd00::/127'", "ipv6: fd00::/127 is too small"),
    ("ipv6", "'fd00::/129'", "ipv6: 'fd00::/129' has a wrong length"),
    ("ipv6", "'fd00::1%eth0/64'", "ipv6: 'fd00::1%eth0' names an interface"),
    ("ipv6", "'fd00::1/64'", "ipv6: fd00::1 is for the bridge"),
    *(
        ("ipv6", f"'{words}'", f"ipv6: {words} holds addresses that no host can have")
        for words in ("fe80::/64", "ff02::/16", "::/0", "::/96")
    ),
    ("address", "10.0.0.5", "address: 10.0.0.5 is in no subnet"),
    ("address", "10.0.0.5/31", "address: 10.0.0.4/31 is too small"),
    ("address", "10.0.0.1/24", "address: 10.0.0.1 is for the bridge"),
    ("address", "10.0.0.0/24", "address: 10.0.0.0 is the address of the subnet"),
    ("address", "10.0.0.255/24", "address: 10.0.0.255 is the broadcast address"),
    ("address", "10.0.0.300/24", "address: '10.0.0.300' is not an IPv4 address"),
    ("address", "010.0.0.5/24", "address: '010.0.0.5' is not an IPv4 address"),
    ("address", "'fd00::5/64'", "address: fd00::5 is an IPv6 address"),
    ("address", "127.0.0.5/8", "address: 127.0.0.0/8 holds addresses"),
    ("gateway", "10.0.0.1", "gateway: 10.0.0.1 is in no subnet"),
    ("gateway", "10.0.0.1/24", "gateway: '10.0.0.1/24' is not an IPv4 address"),
    ("gateway", "'fd00::1'", "gateway: fd00::1 is an IPv6 address"),
    ("mac", "01:00:5e:00:00:01", "mac: 01:00:5e:00:00:01 is the address of a group"),
    ("mac", "00:00:00:00:00:00", "mac: 00:00:00:00:00:00 is no interface's own"),
    ("mac", "FF:ff:ff:ff:ff:ff", "mac: ff:ff:ff:ff:ff:ff is no interface's own"),
    *(
        ("mac", f"'{words}'", f"mac: '{words}' is not a MAC address")
        for words in ("", "02:00:00:00:00", "02-00-00-00-00-01", "0200.0000.0001", "02:0:0:0:0:1")
    ),
    *(("mtu", words, f"mtu: '{words}' is not an MTU") for words in ("67", "65536", "1k", "-1")),
]


@pytest.mark.parametrize(("key", "words", "message"), WRONG)
def test_what_is_wrong_is_said_of_its_key_in_its_line(key: str, words: str, message: str) -> None:
    line, found, _ = problem("bridge: br0", f"{key}: {words}")
    assert (line, found[: len(message)]) == (2, message)


SUBNET = "subnet: 10.0.0.0/24"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["address: 10.0.1.5"], "address: 10.0.1.5 is outside of the subnet 10.0.0.0/24"),
        (["address: 10.0.0.0"], "address: 10.0.0.0 is the address of the subnet"),
        (["address: 10.0.0.255"], "address: 10.0.0.255 is the broadcast address"),
        (["address: 10.0.0.1"], "address: 10.0.0.1 is for the bridge"),
        (["address: 10.0.0.5/16"], "address: 10.0.0.5/16 has another length"),
        (["gateway: 10.0.1.1"], "gateway: 10.0.1.1 is outside of the subnet 10.0.0.0/24"),
        (["gateway: 10.0.0.0"], "gateway: 10.0.0.0 is the address of the subnet"),
        (["gateway: 10.0.0.255"], "gateway: 10.0.0.255 is the broadcast address"),
        (["address: 10.0.0.5", "gateway: 10.0.0.5"], "gateway: 10.0.0.5 is the container's own"),
        (["ipv6: 'fd00::/64'", "mtu: 1279"], "mtu: 1279 is too small for IPv6"),
        (["publish: '[fd00::1]:80:80'"], "publish: fd00::1 is an IPv6 address, but"),
    ],
)
def test_what_does_not_go_together_is_said_of_the_last_of_it(
    lines: list[str], message: str
) -> None:
    line, found, _ = problem("bridge: br0", SUBNET, *lines)
    assert (line, found[: len(message)]) == (2 + len(lines), message)


@pytest.mark.parametrize("mtu", [68, 1279, 65535])
def test_without_ipv6_an_mtu_may_be_small(mtu: int) -> None:
    assert said(f"{{bridge: br0, mtu: {mtu}}}").mtu == mtu


@pytest.mark.parametrize("name", ["br0", "br-lan.10", "b" * 15, "_", "0"])
def test_a_name_of_a_bridge(name: str) -> None:
    assert said(f"{{bridge: '{name}'}}").name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a b", "b" * 16, "-a", "a\u00a0b", "a%d", "é", 'a"', "lo", "all"]
)
def test_what_is_no_name_of_a_bridge(name: str) -> None:
    line, message, _ = problem(f"bridge: {name!r}")
    assert (line, message.startswith("bridge: '")) == (1, True)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "_a", ".a", "é", "a" * 256])
def test_what_is_no_name_of_a_cni_network(name: str) -> None:
    assert problem(f"cni: '{name}'")[1].endswith("cannot be the name of a CNI network")


@pytest.mark.parametrize(
    ("words", "address"),
    [("10.0.0.5", "10.0.0.5"), ("10.0.0.5/24", "10.0.0.5/24"), ("10.0.0.5/32", "10.0.0.5/32")],
)
def test_an_address_of_cni_needs_no_length_and_may_be_alone(words: str, address: str) -> None:
    assert said(f"{{cni: lan, address: {words}}}").address == address


@pytest.mark.parametrize("words", ["10.0.0.0/24", "127.0.0.1", "10.0.0.255/24", "'fd00::5'"])
def test_an_address_of_cni_is_one_of_a_host(words: str) -> None:
    assert problem("cni: lan", f"address: {words}")[1].startswith("address: ")


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        ("8080:80", [Port("", 8080, 80)]),
        ("[8080:80/udp, 8080:80/tcp]", [Port("", 8080, 80, "udp"), Port("", 8080, 80)]),
        ("127.0.0.1:53:54/sctp", [Port("127.0.0.1", 53, 54, "sctp")]),
        ("'[FD00::0001]:1:65535'", [Port("fd00::1", 1, 65535)]),
        ("8000-8002:80-82", [Port("", 8000 + n, 80 + n) for n in range(3)]),
        ("[10.0.0.1:80:80, 10.0.0.2:80:80]", [Port(f"10.0.0.{n}", 80, 80) for n in (1, 2)]),
        ("[]", []),
    ],
)
def test_ports_are_published_in_any_of_their_forms(words: str, ports: list[Port]) -> None:
    assert [*said(f"{{cni: lan, publish: {words}}}").publish] == ports


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("80", "publish: '80' does not say which port of the host"),
        ("80/udp", "publish: '80/udp' does not say which port of the host"),
        ("0:80", "publish: '0:80': '0' is neither a port"),
        ("80:65536", "publish: '80:65536': '65536' is neither a port"),
        ("'80:'", "publish: '80:': '' is neither a port"),
        ("8010-8000:80-90", "publish: '8010-8000:80-90': '8010-8000' is neither"),
        ("8000-8010:80", "publish: '8000-8010:80' has 11 ports of the host for 1"),
        ("80:80/tpc", "publish: '80:80/tpc' has no known protocol"),
        ("80:80/", "publish: '80:80/' has no known protocol"),
        ("80:80/TCP", "publish: '80:80/TCP' is no port"),
        ("1:2:3:4", "publish: '1:2:3:4' is no port"),
        ("'::1:80:80'", "publish: '::1:80:80' is no port"),
        ("'[::1:80:80'", "publish: '[::1:80:80' is no port"),
        ("'[10.0.0.1]:80:80'", "publish: 10.0.0.1 is an IPv4 address"),
        ("'[]:80:80'", "publish: '' is not an IPv6 address"),
        ("':80:80'", "publish: '' is not an IPv4 address"),
        ("web:80:80", "publish: 'web' is not an IPv4 address"),
        ("0.0.0.0:80:80", "publish: 0.0.0.0 is no address of the host"),
        ("'[::]:80:80'", "publish: :: is no address of the host"),
        ("224.0.0.1:80:80", "publish: 224.0.0.1 is the address of a group"),
        ("'[::ffff:10.0.0.1]:80:80'", "publish: ::ffff:10.0.0.1 is an IPv4 address"),
        ("²:80", "publish: '²:80' is no port"),
        ("[::1]:80:80", ""),
        ("[[80]]", "publish: a port is one text"),
        ("{80: 80}", "publish: a port is one text"),
        ("1-1025:1-1025", "publish: more than 1024 ports"),
        ("1-65535:1-65535", "publish: more than 1024 ports"),
    ],
)
def test_what_is_no_published_port_is_refused(words: str, message: str) -> None:
    if not message:  # in YAML it is a list with something behind it
        assert "web.yaml:5" in refused(f"network:\n  cni: lan\n  publish: {words}\n").message
        return
    line, found, _ = problem("cni: lan", f"publish: {words}")
    assert (line, found[: len(message)]) == (2, message)


def test_a_bare_port_is_told_its_other_half() -> None:
    assert problem("cni: lan", "publish: 80/udp")[2].startswith("Write 80:80/udp")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("80:80", "80:81"),
        ("80:80", "127.0.0.1:80:80"),
        ("127.0.0.1:80:80", "80:80"),
        ("127.0.0.1:80:80", "127.0.0.1:80:81/tcp"),
        ("80-90:80-90", "85:1"),
        ("'[fd00::1]:80:80'", "'[fd00:0::1]:80:80'"),
    ],
)
def test_a_port_of_the_host_is_published_once(first: str, second: str) -> None:
    line, message, _ = problem("cni: lan", "publish:", f"- {first}", f"- {second}")
    assert line == 4 and message.endswith("of the host is published twice")


@pytest.mark.parametrize("name", ["subnet", "gateway", "mtu", "ipv6"])
def test_cni_knows_its_own_addresses(name: str) -> None:
    line, message, _ = problem("cni: lan", f"{name}: 1")
    assert (line, message) == (2, f"{name}: is not for a network of kind cni")


@pytest.mark.parametrize("kind", ["container: db", "namespace: /run/n"])
def test_a_network_of_somebody_else_has_nothing_to_say(kind: str) -> None:
    line, message, hint = problem(kind, "publish: 80:80")
    assert (line, message) == (2, f"publish: is not for a network of kind {kind.partition(':')[0]}")
    assert hint.endswith("nothing.")


def test_a_network_is_of_one_kind() -> None:
    line, message, _ = problem("bridge: br0", "cni: lan")
    assert (line, message) == (2, "is either bridge or cni, not both")


def test_an_unknown_key_is_refused_with_the_known_one() -> None:
    assert problem("bridge: br0", "adress: auto")[::2] == (2, "Did you mean 'address'?")
    assert problem("bridg: br0")[::2] == (1, "Did you mean 'bridge'?")
    assert problem("host: yes")[::2] == (1, "Write network: host")
    assert "which network" in problem("subnet: 10.0.0.0/24")[1]


@pytest.mark.parametrize("words", ["bridge", "Host", "own", "''", "[host]", "", "{}", "br0"])
def test_what_is_no_network_is_refused(words: str) -> None:
    assert refused(f"network: {words}\n").message.startswith("web.yaml:3: key 'network': ")


@pytest.mark.parametrize("words", ["run/n", "/a/../b", ""])
def test_a_namespace_is_an_absolute_path(words: str) -> None:
    assert problem(f"namespace: '{words}'")[1].startswith("namespace: '")


@pytest.mark.parametrize("words", ["a/b", "", "-x"])
def test_another_container_is_a_name(words: str) -> None:
    assert problem(f"container: '{words}'")[1].startswith("container: '")


@pytest.mark.parametrize("net", ["own", "host", "path:/n", "container:db"])
@pytest.mark.parametrize("words", ["host", "none", "{bridge: br0}"])
def test_a_network_is_said_once(net: str, words: str) -> None:
    error = refused(f"namespaces: {{net: '{net}'}}\nnetwork: {words}\n")
    assert error.message == "web.yaml:4: key 'network': is given, and namespaces: net too"


def test_a_container_does_not_join_itself() -> None:
    error = refused("hostname: h\nnetwork: {container: web}\n")
    assert error.message == "web.yaml:4: key 'network': net: it cannot join itself"
    error = refused("hostname: h\nnamespaces: {net: 'container:web'}\n")
    assert error.message == "web.yaml:4: key 'namespaces': net: it cannot join itself"


@pytest.mark.parametrize("words", ["host", "{container: db}", "{namespace: /n}"])
def test_with_ids_mapped_a_network_is_its_own(words: str) -> None:
    error = refused(f"{MAPPED}network: {words}\n")
    assert error.message.startswith("web.yaml:4: key 'network': net is ")
    assert error.message.endswith("but /sys cannot be mounted then: ids are mapped")


@pytest.mark.parametrize("words", ["none", "{bridge: br0}", "{cni: lan}"])
def test_with_ids_mapped_it_may_be_on_a_bridge(words: str) -> None:
    assert define(f"{MAPPED}network: {words}\n").network is not None


KEEP = "checkpoint: {tcp: keep}\n"


@pytest.mark.parametrize(
    "text",
    [
        "network: host\n",
        "network: {container: db}\n",
        "namespaces: {net: host}\n",
        "namespaces: {net: 'container:db'}\n",
        "network: {namespace: /proc/1/ns/net}\n",
        "namespaces: {net: 'path:/run/netns/web'}\n",
    ],
)
def test_connections_in_a_network_of_others_cannot_be_kept(text: str) -> None:
    error = refused(text + KEEP)
    assert error.message.startswith(
        "web.yaml:4: key 'checkpoint.tcp': keep needs a network of the container's own"
    )
    assert not define(f"{text}checkpoint: {{tcp: close}}\n").checkpoint.tcp_keep


@pytest.mark.parametrize(
    "text", ["", "network: none\n", "network: {bridge: br0}\n", "network: {cni: lan}\n"]
)
def test_connections_in_ones_own_network_can_be_kept(text: str) -> None:
    assert define(text + KEEP).checkpoint.tcp_keep


@pytest.mark.parametrize("entry", [[], [{"type": "network", "path": "/run/netns/web"}]])
def test_connections_of_a_bundle_in_a_network_of_others_cannot_be_kept(
    entry: list[dict[str, str]],
) -> None:
    base = runc_spec()
    assert made_of(base, KEEP)
    base["linux"]["namespaces"] = [
        *(one for one in base["linux"]["namespaces"] if one["type"] != "network"),
        *entry,
    ]
    with pytest.raises(DefinitionError, match=r"web\.yaml:2: key 'checkpoint\.tcp': keep needs"):
        made_of(base, KEEP)
    assert made_of(base, f"{KEEP}network: none\n")
    assert made_of(base, f"{KEEP}network: {{bridge: br0}}\n")


@pytest.mark.parametrize(("text", "keeps"), [("", False), (KEEP, True)])
def test_a_stop_knows_whether_connections_are_kept(text: str, *, keeps: bool) -> None:
    assert Inputs(rendering._policy(define(text))).tcp_keep is keeps
    assert not Inputs([]).tcp_keep


def nets(config: dict[str, Any]) -> list[dict[str, str]]:
    return [one for one in config["linux"]["namespaces"] if one["type"] == "network"]


def planned(rendered: spec.Rendered, key: str) -> list[str]:
    return [value for name, value in rendered.plan if name == key]


NAMED = {"type": "network", "path": "/run/netns/torpor-web"}


@pytest.mark.parametrize("words", ["{bridge: br0}", "{cni: lan}"])
def test_a_leased_network_is_a_namespace_by_name_that_need_not_be_there(words: str) -> None:
    for rendered in (made(f"network: {words}"), made_of(runc_spec(), f"network: {words}")):
        assert nets(rendered.config) == [NAMED]
        assert planned(rendered, preparation.NAMESPACE) == []
        assert f"kind\t{words[1:-1].partition(':')[0]}" in planned(rendered, preparation.NETWORK)


@pytest.mark.parametrize("words", ["{bridge: br0}", "{cni: lan}"])
def test_with_ids_mapped_a_leased_network_is_in_a_namespace_of_its_own(words: str) -> None:
    base = runc_spec()
    base["linux"]["namespaces"].append({"type": "user"})
    mapped = made(f"{MAPPED}network: {words}", idmap=MAP)
    for rendered in (mapped, made_of(base, f"network: {words}")):
        assert nets(rendered.config) == [{"type": "network"}]
        assert "mapped\tyes" in planned(rendered, preparation.NETWORK)


def test_a_bundle_that_had_the_hosts_network_or_anothers_gets_its_own() -> None:
    for path in ("", "/run/netns/other"):
        base = runc_spec()
        base["linux"]["namespaces"] = [{"type": "mount"}]
        base["linux"]["namespaces"] += [{"type": "network", "path": path}] if path else []
        rendered = made_of(base, "network: {bridge: br0}")
        assert nets(rendered.config) == [NAMED]
        assert planned(rendered, preparation.NAMESPACE) == []
        assert nets(made_of(base, "network: none").config) == [{"type": "network"}]


@pytest.mark.parametrize(
    ("words", "net", "plan"),
    [
        ("host", [], []),
        ("none", [{"type": "network"}], []),
        (
            "{container: db}",
            [{"type": "network", "path": f"{RUN}/ns/net"}],
            [(preparation.JOIN, "net\tdb")],
        ),
        (
            "{namespace: /n}",
            [{"type": "network", "path": "/n"}],
            [(preparation.NAMESPACE, "network\t/n")],
        ),
    ],
)
def test_a_network_of_somebody_else_is_a_namespace_as_any(
    words: str, net: list[dict[str, str]], plan: preparation.Plan
) -> None:
    rendered = made(f"network: {words}")
    assert nets(rendered.config) == net
    joins = (preparation.JOIN, preparation.NAMESPACE)
    assert [pair for pair in rendered.plan if pair[0] in joins] == plan
    assert planned(rendered, preparation.NETWORK) == []


def test_a_plan_says_all_that_was_said_of_a_bridge_and_no_more() -> None:
    assert planned(made(f"network: {FULL}"), preparation.NETWORK) == [
        "kind\tbridge",
        "name\tbr0",
        "subnet\t10.1.2.0/24",
        "address\t10.1.2.9/24",
        "gateway\t10.1.2.254",
        "mac\t02:aa:00:00:00:01",
        "mtu\t1400",
        "subnet6\tfd00::/64",
        "address6\tfd00::9/64",
        "publish\t\t80\t8080\ttcp",
    ]
    assert planned(made("network: {bridge: b}"), preparation.NETWORK) == ["kind\tbridge", "name\tb"]


def test_a_lease_reads_the_ports_of_a_plan() -> None:
    words = "{bridge: b, ipv6: 'fd00::/64', publish: ['[fd00::5]:80-81:8-9/udp', '1:2']}"
    lines = [line.split("\t") for line in planned(made(f"network: {words}"), preparation.NETWORK)]
    found = [str(lease.read_publish(rest)) for key, *rest in lines if key == "publish"]
    assert found == ["[fd00::5]:80:8/udp", "[fd00::5]:81:9/udp", "1:2/tcp"]


FILES = ("/etc/resolv.conf", "/etc/hosts")


@pytest.mark.parametrize(
    ("words", "resolv", "hosts"),
    [
        ("none", [], []),
        ("host", ["host"], ["web"]),
        ("{container: db}", ["own"], []),
        ("{namespace: /n}", ["own"], []),
        ("{bridge: br0}", ["own"], ["web"]),
        ("{cni: lan}", ["own"], ["web"]),
    ],
)
def test_each_network_has_its_name_files(words: str, resolv: list[str], hosts: list[str]) -> None:
    bundles = ["runc"] if hosts else []
    for rendered, name in (
        (made(f"network: {words}"), hosts),
        (made_of(runc_spec(), f"network: {words}"), bundles),
    ):
        assert planned(rendered, preparation.RESOLV) == resolv
        assert planned(rendered, preparation.HOSTS) == name
        places = [one["destination"] for one in rendered.config["mounts"]]
        assert ("/etc/resolv.conf" in places, "/etc/hosts" in places) == (bool(resolv), bool(hosts))


@pytest.mark.parametrize("text", ["", "namespaces: {net: host}", "namespaces: {net: 'path:/n'}"])
def test_without_a_network_there_are_no_name_files(text: str) -> None:
    for rendered in (made(text), made_of(runc_spec(), text)):
        assert not planned(rendered, preparation.RESOLV) + planned(rendered, preparation.HOSTS)
        assert not {one["destination"] for one in rendered.config["mounts"]} & {*FILES}


def test_a_bundle_has_no_hostname_file() -> None:
    rendered = made_of(runc_spec(), "network: {bridge: br0}\nhostname: h\n")
    assert planned(rendered, preparation.HOSTNAME) == []
    assert planned(rendered, preparation.HOSTS) == ["h"]


@pytest.mark.parametrize("read_only", ["yes", "no"])
def test_name_files_are_bound_read_only_where_the_root_is(read_only: str) -> None:
    text = f"network: {{bridge: br0}}\nread-only: {read_only}\n"
    for rendered in (made(text), made_of(runc_spec(), text)):
        for place in FILES:
            mount = mount_at(rendered.config, place)
            assert mount["source"] == f"{RUN}/files/{os.path.basename(place)}"
            assert mount["options"][:4] == ["bind", "nosuid", "noexec", "nodev"]
            assert ("ro" in mount["options"]) is (read_only == "yes")


def test_name_files_are_only_mounted_where_they_fit() -> None:
    text = "network: {bridge: br0}\nread-only: yes\n"
    rendered = made(text, mountpoints=frozenset({"/etc/hosts"}))
    assert (planned(rendered, preparation.RESOLV), planned(rendered, preparation.HOSTS)) == (
        [],
        ["web"],
    )
    assert "/etc/resolv.conf" not in [one["destination"] for one in rendered.config["mounts"]]


def test_a_mount_of_ones_own_wins_over_a_name_file() -> None:
    text = "network: {bridge: br0}\nmounts: ['/srv/h:/etc/hosts', '/srv/h:/etc/resolv.conf']\n"
    for rendered in (
        made(text, sources={"/srv/h": "/srv/h"}),
        made_of(runc_spec(), text, sources={"/srv/h": "/srv/h"}),
    ):
        for place in FILES:
            assert mount_at(rendered.config, place)["source"] == "/srv/h"
        assert not planned(rendered, preparation.RESOLV) + planned(rendered, preparation.HOSTS)


def test_a_bundles_own_mount_wins_over_a_name_file() -> None:
    base = runc_spec()
    own = {"destination": "/etc//hosts", "type": "bind", "source": "/srv/h", "options": ["bind"]}
    base["mounts"].append(own)
    rendered = made_of(base, "network: {bridge: br0}")
    assert own in rendered.config["mounts"]
    assert planned(rendered, preparation.HOSTS) == []
    assert planned(rendered, preparation.RESOLV) == ["own"]
    assert rendered.warnings == ()


def test_files_are_mounted_last_since_links_lead_from_their_places_below_other_mounts() -> None:
    rendered = made("network: {bridge: br0}\nmounts: ['tmpfs:/run', 'data:/var']\n")
    places = [one["destination"] for one in rendered.config["mounts"]]
    assert set(places[-3:]) == {"/etc/hostname", *FILES}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the host's files, of which there are none yet."""
    for name in ("_RESOLV_CONF", "_RESOLV_CONF_OF_RESOLVED", "_HOSTS"):
        monkeypatch.setattr(name_files, name, str(tmp_path / name))
    return tmp_path


STUB = "# stub\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n"


def test_in_the_hosts_network_the_files_are_the_hosts(host: Path) -> None:
    (host / "_RESOLV_CONF").write_text(STUB)
    (host / "_HOSTS").write_bytes(b"10.0.0.1 a\xff\n")
    assert name_files.resolv_conf_of_host() == STUB.encode()
    assert name_files.hosts_of_host(("", "")) == b"10.0.0.1 a\xff\n"
    called = name_files.hosts_of_host(("web", "web"))
    assert called == b"10.0.0.1 a\xff\n127.0.1.1\tweb\n"
    (host / "_HOSTS").write_bytes(b"10.0.0.1 a web # b\n")
    assert name_files.hosts_of_host(("web", "b")) == b"10.0.0.1 a web # b\n127.0.1.1\tb\n"


def test_only_name_servers_in_reach_are_kept(host: Path) -> None:
    text = (
        "search lan\nnameserver 127.0.0.1\nnameserver 10.0.0.1\n#nameserver 9.9.9.9\n"
        "nameserver\t::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions rotate"
    )
    (host / "_RESOLV_CONF").write_text(text)
    assert name_files.resolv_conf() == (
        b"search lan\nnameserver 10.0.0.1\n#nameserver 9.9.9.9\nnameserver 2001:db8::1\n"
        b"options rotate\n"
    )


@pytest.mark.parametrize(
    "server",
    ["127.0.0.53", "127.1", "::1", "0:0::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "fe80::1%eth0"],
)
def test_where_the_host_asks_itself_the_container_asks_whom_that_asks(
    host: Path, server: str
) -> None:
    (host / "_RESOLV_CONF").write_text(f"nameserver {server}\noptions trust-ad\n")
    (host / "_RESOLV_CONF_OF_RESOLVED").write_text("nameserver 10.0.0.1\nsearch lan\n")
    assert name_files.resolv_conf() == b"nameserver 10.0.0.1\nsearch lan\n"


@pytest.mark.parametrize("server", ["10.0.0.1", "169.254.169.254", "2001:db8::1", "fd00::1"])
def test_a_name_server_elsewhere_is_in_reach(host: Path, server: str) -> None:
    (host / "_RESOLV_CONF").write_text(f"nameserver {server}\n")
    (host / "_RESOLV_CONF_OF_RESOLVED").write_text("nameserver 10.9.9.9\n")
    assert name_files.resolv_conf() == f"nameserver {server}\n".encode()


def test_without_a_name_server_in_reach_there_is_a_comment_and_the_rest(host: Path) -> None:
    (host / "_RESOLV_CONF").write_text(STUB)
    (host / "_RESOLV_CONF_OF_RESOLVED").write_text("nameserver ::1\n")
    first, *rest = name_files.resolv_conf().decode().splitlines()
    assert first.startswith("# The host has no name server")
    assert rest == ["# stub", "options edns0", "search lan"]


def test_files_that_the_host_lacks_cost_no_start(host: Path) -> None:
    assert b"No such file" in name_files.resolv_conf()
    assert b"nameserver" not in name_files.resolv_conf()
    assert name_files.resolv_conf_of_host().startswith(b"# ")
    os.mkfifo(host / "_HOSTS")
    assert b"not a regular file" in name_files.hosts_of_host(("web",))
    assert b"127.0.0.1\tlocalhost\n" in name_files.hosts_of_host(("web",))


def test_a_containers_addresses_have_its_names() -> None:
    text = name_files.hosts(("10.0.0.9/24", "fd00::9/64"), ("h", "web", "h")).decode()
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ")
    assert text.endswith("\n10.0.0.9\th web\nfd00::9\th web\n")
    assert name_files.hosts(("10.0.0.9", ""), ("", "web")).endswith(b"\n10.0.0.9\tweb\n")
    assert b"web" not in name_files.hosts((), ("web",))


@pytest.fixture
def container(tmp_path: Path) -> Container:
    container = Container("web")
    container.run_dir = str(tmp_path / "run/web")
    container.state_dir = str(tmp_path / "lib/web")
    return container


def written(container: Container, name: str) -> str:
    path = Path(preparation.file_path(container, name))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    return path.read_text()


def lend(container: Container, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    given = lease.Lease(lease.BRIDGE, "br0")
    given.address, given.address6 = addresses
    monkeypatch.setattr(lease, "read", {container: given}.__getitem__)


LEASED = [
    (preparation.NETWORK, "kind\tbridge"),
    (preparation.RESOLV, "own"),
    (preparation.HOSTS, "h"),
]


def test_name_files_are_of_the_host_and_the_lease_of_today(
    container: Container, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in ("1", "22"):
        (host / "_RESOLV_CONF").write_text(f"nameserver 10.0.0.{day}\nnameserver ::1\n")
        lend(container, monkeypatch, f"10.1.0.{day}/24", f"fd00::{day}/64")
        assert preparation.prepare(container, LEASED) == []
        assert written(container, "resolv.conf") == f"nameserver 10.0.0.{day}\n"
        hosts = written(container, "hosts")
        assert hosts.endswith(f"\n10.1.0.{day}\th web\nfd00::{day}\th web\n")


def test_hosts_can_be_written_when_the_lease_comes_later_where_they_are_mounted(
    container: Container, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "read", lambda _: None)
    preparation.prepare(container, LEASED)
    before = os.stat(preparation.file_path(container, "hosts"))
    assert "web" not in written(container, "hosts")
    lend(container, monkeypatch, "10.1.0.9/24", "")
    preparation.write_hosts(container, LEASED)
    assert written(container, "hosts").endswith("\n10.1.0.9\th web\n")
    assert os.stat(preparation.file_path(container, "hosts")).st_ino == before.st_ino
    os.unlink(preparation.file_path(container, "hosts"))
    preparation.write_hosts(container, [])
    assert not os.path.exists(preparation.file_path(container, "hosts"))


def test_in_the_hosts_network_name_files_are_copies(container: Container, host: Path) -> None:
    (host / "_RESOLV_CONF").write_text(STUB)
    (host / "_HOSTS").write_text("10.0.0.1 other\n")
    plan = [(preparation.RESOLV, "host"), (preparation.HOSTS, "web")]
    preparation.prepare(container, plan)
    assert written(container, "resolv.conf") == STUB
    assert written(container, "hosts") == "10.0.0.1 other\n127.0.1.1\tweb\n"


def test_a_long_hosts_file_is_copied_whole(container: Container, host: Path) -> None:
    text = "".join(f"0.0.0.0 ad-{number}.example\n" for number in range(200_000))
    (host / "_HOSTS").write_text(text)
    preparation.prepare(container, [(preparation.HOSTS, "web")])
    assert written(container, "hosts") == f"{text}127.0.1.1\tweb\n"


tokens = st.sampled_from(
    [*"0123456789:/.-[] fd", "10.0.0.", "fd00::", "80", "tcp", "auto", "/24", "02:00:00:00:00:01"]
)
texts = st.lists(tokens | st.text(max_size=2), max_size=6).map("".join)
nodes: st.SearchStrategy[Node] = st.builds(Scalar, st.just(9), texts, st.booleans()) | st.builds(
    Sequence, st.just(9), st.lists(st.builds(Scalar, st.just(9), texts, st.just(False)), max_size=3)
)
KEYS = sorted({*network._KNOWN, "host", "x"})


@cases(1000)
@given(
    st.dictionaries(st.sampled_from(KEYS), nodes, max_size=5), st.sampled_from(["bridge", "cni"])
)
def test_any_words_are_a_network_that_a_plan_can_hold_or_wrong(
    entries: dict[str, Node], kind: str
) -> None:
    said = {kind: Scalar(9, "br0", absent=False), **entries}
    try:
        found = network.parse(Mapping(8, {key: (9, node) for key, node in said.items()}))
    except WrongError as error:
        assert error.line in (8, 9)
        assert error.problem.isprintable()
    else:
        assert all("\n" not in line for _, line in found.plan(is_mapped=False))


@cases(500)
@given(st.binary(max_size=60) | texts.map(str.encode))
def test_any_resolv_conf_is_read(content: bytes) -> None:
    lines = b"nameserver " + content + b"\n" + content
    assert all(name_files._is_in_reach(one) in (True, False) for one in name_files._servers(lines))
    left = name_files._without_unreachable(lines)
    assert all(map(name_files._is_in_reach, name_files._servers(left)))


def test_a_definition_with_a_bundle_may_have_a_network() -> None:
    definition: Definition = define("network: {cni: lan}\n", f"bundle: {BUNDLE}\n")
    assert definition.network == Network("cni", "lan")
