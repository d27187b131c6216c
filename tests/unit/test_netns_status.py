"""What ip(8) says of a namespace is read whole, or refused: the checkpoint may be damaged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import netns_status
from torpor.errors import TorporError
from torpor.netns_status import FOREVER_S, Status

# As iproute2 6.15 on Linux 6.18 says it.
LINKS = (
    '[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"mtu":65536,'
    '"qdisc":"noqueue","operstate":"UNKNOWN","group":"default","txqlen":1000,'
    '"link_type":"loopback","address":"00:00:00:00:00:00","broadcast":"00:00:00:00:00:00",'
    '"addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host","label":"lo",'
    '"valid_life_time":4294967295,"preferred_life_time":4294967295},{"family":"inet6",'
    '"local":"::1","prefixlen":128,"scope":"host","protocol":"kernel_lo",'
    '"valid_life_time":4294967295,"preferred_life_time":4294967295}]},{"ifindex":2,'
    '"link_index":3,"ifname":"eth0","mtu":1400,"address":"0a:83:00:00:00:02","link_netnsid":0,'
    '"addr_info":[{"family":"inet","local":"10.77.0.7","address":"10.77.0.8","prefixlen":32,'
    '"scope":"link","valid_life_time":4294967295,"preferred_life_time":4294967295},'
    '{"family":"inet","local":"10.9.0.7","prefixlen":24,"broadcast":"10.9.0.255",'
    '"scope":"global","secondary":true,"dynamic":true,"label":"eth0","valid_life_time":98,'
    '"preferred_life_time":48},{"family":"inet6","local":"2001:db8::9","prefixlen":64,'
    '"scope":"global","dynamic":true,"mngtmpaddr":true,"protocol":"kernel_ra",'
    '"valid_life_time":86396,"preferred_life_time":14396},{"family":"inet6","local":"fd00::2",'
    '"prefixlen":64,"scope":"global","nodad":true,"noprefixroute":true,'
    '"valid_life_time":4294967295,"preferred_life_time":4294967295},{"family":"inet6",'
    '"local":"fe80::6c44:cdff:fe79:1e15","prefixlen":64,"scope":"link","protocol":"kernel_ll",'
    '"valid_life_time":4294967295,"preferred_life_time":4294967295}]}]'
)
ROUTES = (
    '[{"dst":"default","gateway":"10.9.0.1","dev":"eth0","protocol":"static","metric":5,'
    '"flags":["onlink"]},{"dst":"10.9.0.0/24","dev":"eth0","protocol":"kernel","scope":"link",'
    '"prefsrc":"10.9.0.2","flags":[]},{"dst":"10.97.0.1","dev":"eth0","scope":"link",'
    '"prefsrc":"10.9.0.2","flags":["linkdown"],"metrics":[{"mtu":1300,"rtt":5}]},'
    '{"type":"blackhole","dst":"10.98.0.0/16","flags":[]},{"dst":"10.99.0.0/16","flags":[],'
    '"nexthops":[{"gateway":"10.9.0.3","dev":"eth0","weight":1,"flags":[]}]},'
    '{"type":"local","dst":"10.96.0.0/16","dev":"lo","scope":"host","flags":[]}]'
)
ROUTES6 = (
    '[{"dst":"fd00::/64","dev":"eth0","protocol":"kernel","metric":256,"flags":[],'
    '"pref":"medium"},{"dst":"default","gateway":"fe80::1","dev":"eth0","protocol":"ra",'
    '"metric":1024,"expires":1700,"flags":[],"pref":"medium"},{"dst":"default",'
    '"gateway":"fd00::1","dev":"eth0","protocol":"77","metric":50,"flags":[],"pref":"medium"}]'
)
EMPTY = "[]"


def parse(links: object = EMPTY, routes: object = EMPTY, routes6: object = EMPTY) -> Status:
    """Each as text, or as what JSON has for it."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in (links, routes, routes6)]
    return netns_status.parse("".join(f"{text}\n" for text in texts).encode())


def test_addresses_are_those_that_the_kernel_does_not_make_itself() -> None:
    found = parse(LINKS)
    assert found.mtus == {"lo": 65536, "eth0": 1400}
    assert [(one.interface, one.address) for one in found.addresses] == [
        ("lo", "127.0.0.1/8"),
        ("eth0", "10.77.0.7/32"),
        ("eth0", "10.9.0.7/24"),
        ("eth0", "fd00::2/64"),
    ]
    _, peer, timed, bare = found.addresses
    assert (peer.peer, peer.scope, peer.valid_s) == ("10.77.0.8", 253, FOREVER_S)
    assert (timed.broadcast, timed.valid_s, timed.preferred_s) == ("10.9.0.255", 98, 48)
    assert bare.is_without_route and not timed.is_without_route
    assert found.left_out == []


def test_routes_are_those_that_somebody_made_and_the_others_are_named() -> None:
    found = parse(LINKS, ROUTES, ROUTES6)
    assert [str(one) for one in found.routes] == [
        "0.0.0.0/0 via 10.9.0.1 dev eth0",
        "10.97.0.1/32 dev eth0",
        "10.98.0.0/16",
        "::/0 via fd00::1 dev eth0",
    ]
    default, direct, hole, default6 = found.routes
    assert (default.is_onlink, default.metric, default.protocol) == (True, 5, 4)
    assert (direct.source, direct.scope, direct.metrics) == ("10.9.0.2", 253, {"mtu": 1300})
    assert (hole.kind, direct.protocol, direct.is_onlink) == ("blackhole", 3, False)
    assert (default6.metric, default6.protocol) == (50, 77)
    assert found.left_out == [
        "a route to '10.99.0.0/16' is not made again: it has 'nexthops'",
        "a route to '10.96.0.0/16' is not made again: its type is 'local'",
    ]


def test_what_is_too_much_is_left_out_and_said() -> None:
    routes = [
        {"dst": f"10.{n >> 8}.{n & 255}.0/24", "dev": "eth0", "flags": []} for n in range(5000)
    ]
    found = parse(routes=routes)
    assert len(found.routes) == 4096
    assert found.left_out == ["904 of 5000 IPv4 routes are not made again"]


LINK = {"ifname": "eth0", "mtu": 1500, "addr_info": []}
ADDRESS = {"family": "inet", "local": "10.0.0.1", "prefixlen": 24, "scope": "global"}
ROUTE = {"dst": "10.0.0.0/8", "flags": []}


DAMAGE: list[tuple[str, object]] = [
    *(("local", "fd00::1"), ("local", "x"), ("local", None), ("prefixlen", 33)),
    *(("prefixlen", 1.5), ("scope", "mars"), ("scope", "256"), ("scope", [])),
    *(("valid_life_time", -1), ("broadcast", "fd00::1"), ("address", "10.0.0.1/8")),
]


@pytest.mark.parametrize(
    "link",
    [
        {"ifname": "eth0"},
        {**LINK, "mtu": -1},
        {**LINK, "mtu": "1500"},
        {**LINK, "mtu": True},
        {**LINK, "ifname": "../x"},
        {**LINK, "ifname": "a" * 16},
        {**LINK, "ifname": ""},
        {**LINK, "ifname": 5},
        {**LINK, "addr_info": {}},
        {**LINK, "addr_info": [5]},
        *({**LINK, "addr_info": [{**ADDRESS, key: value}]} for key, value in DAMAGE),
        {**LINK, "addr_info": [{"family": "inet"}]},
        {**LINK, "addr_info": [{**ADDRESS, "family": "inet6", "local": "fe80::1%eth0"}]},
    ],
)
def test_a_damaged_link_is_one_fault(link: dict[str, Any]) -> None:
    with pytest.raises(TorporError, match="status of the network namespace is damaged"):
        parse([link])


@pytest.mark.parametrize(
    "route",
    [
        {"flags": []},
        {"dst": "10.0.0.1/8", "flags": []},
        {**ROUTE, "dst": "fd00::/8"},
        {**ROUTE, "dst": 7},
        {**ROUTE, "gateway": "default"},
        {**ROUTE, "prefsrc": "fd00::1"},
        {**ROUTE, "dev": "a/b"},
        {**ROUTE, "metric": 1 << 32},
        {**ROUTE, "metric": "5"},
        {**ROUTE, "flags": "onlink"},
        {**ROUTE, "metrics": [{"mtu": "lots"}]},
        {**ROUTE, "metrics": {"mtu": 5}},
        {**ROUTE, "protocol": "999"},
        {**ROUTE, "scope": 0},
    ],
)
def test_a_damaged_route_is_one_fault(route: dict[str, Any]) -> None:
    with pytest.raises(TorporError, match="status of the network namespace is damaged"):
        parse(routes=[route])


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[]", b"[]\n[]\n", b"[]\n[]\n[]\n[]\n", b"{}\n[]\n[]\n", b"[]\n[]\n[\n"),
        *(b"\xff\n[]\n[]\n", b"NaN\n[]\n[]\n", b"[" * 99999 + b"\n[]\n[]\n"),
        b'[]\n[]\n[{"dst":"::/0","dst":"::/0"}]\n',
    ],
    ids=lambda text: text[:9].hex(),
)
def test_a_damaged_file_is_one_fault(text: bytes) -> None:
    with pytest.raises(TorporError, match="status of the network namespace is damaged"):
        netns_status.parse(text)


WORDS = st.sampled_from(
    [*ADDRESS, *ROUTE, *LINK, "gateway", "type", "metrics", "dev", "eth0", "::1", "default"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=12,
)


@pytest.mark.fuzz
@cases(400)
@given(VALUES, VALUES, VALUES)
def test_whatever_is_in_it_is_read_or_one_fault(one: object, two: object, three: object) -> None:
    link = [{**LINK, "addr_info": [one if isinstance(one, dict) else ADDRESS]}]
    for values in ((one, two, three), (link, [two], [three])):
        try:
            parse(*values)
        except TorporError:
            pass


@pytest.mark.fuzz
@cases(300)
@given(st.data())
def test_a_changed_byte_is_read_or_one_fault(data: st.DataObject) -> None:
    text = bytearray(f"{LINKS}\n{ROUTES}\n{ROUTES6}\n".encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        netns_status.parse(bytes(text))
    except TorporError:
        pass
