"""What nft(8) is told is what the lease says, and nothing else can be said through it."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import firewall
from torpor.errors import TorporError
from torpor.lease import BRIDGE, Lease, Publish

INJECTIONS = ("", " ", "x\ny", 'a"; drop', "a;b", "a{b}", "a*", "a b", "-a\0", "é", "a#b", "a$b")


def lease(*publish: Publish, **changes: str) -> Lease:
    one = Lease(BRIDGE, "br0")
    one.address, one.bridge_address = "10.88.0.2/24", "10.88.0.1/24"
    one.address6, one.bridge_address6 = "fd88::2/64", "fd88::1/64"
    one.publish = list(publish)
    for key, value in changes.items():
        setattr(one, key, value)
    return one


def rules(text: str, chain: str) -> list[str]:
    """The rules of a chain, without its first line."""
    _, _, rest = text.partition(f"\tchain {chain} {{\n")
    body, _, _ = rest.partition("\n\t}")
    return [line.strip() for line in body.split("\n")[1:]]


def published(port: Publish, chain: str = "prerouting", **changes: str) -> list[str]:
    return rules(firewall.container_rules("web", lease(port, **changes)), chain)


def test_a_table_is_replaced_in_one_transaction() -> None:
    text = firewall.container_rules("web.1_x-Y", lease(Publish("", 8080, 80, "tcp")))
    assert text.startswith(
        "add table inet torpor-container-web.1_x-Y\n"
        "delete table inet torpor-container-web.1_x-Y\n"
        "table inet torpor-container-web.1_x-Y {\n"
    )
    assert text.endswith("\t}\n}\n")


def test_all_addresses_are_the_hosts_own_of_both_families() -> None:
    assert published(Publish("", 8080, 80, "udp")) == [
        "meta nfproto ipv4 fib daddr type local udp dport 8080 dnat ip to 10.88.0.2:80",
        "meta nfproto ipv6 fib daddr type local udp dport 8080 dnat ip6 to [fd88::2]:80",
    ]
    assert published(Publish("", 8080, 80, "sctp"), address6="") == [
        "meta nfproto ipv4 fib daddr type local sctp dport 8080 dnat ip to 10.88.0.2:80"
    ]


def test_an_address_is_matched_in_its_family_only() -> None:
    for chain in ("prerouting", "output"):
        assert published(Publish("192.0.2.1", 1, 2, "tcp"), chain) == [
            "ip daddr 192.0.2.1 tcp dport 1 dnat ip to 10.88.0.2:2"
        ]
        assert published(Publish("2001:db8::1", 1, 2, "tcp"), chain) == [
            "ip6 daddr 2001:db8::1 tcp dport 1 dnat ip6 to [fd88::2]:2"
        ]
    assert published(Publish("0.0.0.0", 1, 2, "tcp")) == [
        "meta nfproto ipv4 fib daddr type local tcp dport 1 dnat ip to 10.88.0.2:2"
    ]


def test_what_comes_from_outside_for_a_loopback_address_is_not_let_in() -> None:
    port = Publish("127.0.0.5", 8080, 80, "tcp")
    assert published(port) == []
    assert published(port, "output") == [
        "ip daddr 127.0.0.5 tcp dport 8080 dnat ip to 10.88.0.2:80"
    ]


def test_a_loopback_connection_is_only_led_where_its_answer_comes_back() -> None:
    first, second = published(Publish("", 1, 2, "tcp"), "output")
    assert "127" not in first and second.startswith("ip6 daddr != ::1 ")
    foreign = {"bridge_address": "", "bridge_address6": ""}
    first, _ = published(Publish("", 1, 2, "tcp"), "output", **foreign)
    assert first.startswith("ip daddr != 127.0.0.0/8 ")


def test_clients_keep_their_names_where_answers_pass_the_host() -> None:
    port = Publish("", 1, 2, "tcp")
    assert published(port, "postrouting") == [
        "ct status dnat ip daddr 10.88.0.2 ip saddr { 10.88.0.0/24, 127.0.0.0/8 } masquerade",
        "ct status dnat ip6 daddr fd88::2 ip6 saddr { fd88::/64 } masquerade",
    ]
    assert published(port, "postrouting", bridge_address="", bridge_address6="") == [
        "ct status dnat ip daddr 10.88.0.2 masquerade",
        "ct status dnat ip6 daddr fd88::2 masquerade",
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_that_could_not_be_reached_is_refused(address: str) -> None:
    changes = {"bridge_address": ""} if ":" not in address else {}
    with pytest.raises(TorporError, match="cannot leave the host"):
        published(Publish(address, 1, 2, "tcp"), **changes)


def test_a_port_of_a_family_that_the_container_lacks_is_refused() -> None:
    with pytest.raises(TorporError, match=r"publish: \[2001:db8::1\]:1:2/tcp: .* no address"):
        published(Publish("2001:db8::1", 1, 2, "tcp"), address6="")


def test_subnets_are_added_to_those_of_other_containers() -> None:
    text = firewall.bridge_rules(lease(address6="", bridge_address6=""))
    assert "delete" not in text
    assert "add element inet torpor-bridge-br0 subnets4 { 10.88.0.0/24 }" in text
    assert "add element inet torpor-bridge-br0 subnets6" not in text
    assert text.count(' oifname != "br0" masquerade') == 2
    assert 'prerouting iifname "br0" ip daddr 127.0.0.0/8 drop' in text


@pytest.mark.parametrize("words", INJECTIONS)
def test_no_name_can_say_anything_else(words: str) -> None:
    port = Publish("", 1, 2, "tcp")
    with pytest.raises(TorporError):
        firewall.container_rules(words, lease(port))
    with pytest.raises(TorporError):
        firewall.bridge_rules(lease(network=words))
    with pytest.raises(TorporError):
        firewall.remove_bridge(words)
    with pytest.raises(TorporError):
        firewall.remove(words)


@pytest.mark.parametrize(
    "port",
    [
        *(Publish(words, 1, 2, "tcp") for words in INJECTIONS if words),
        *(Publish(words, 1, 2, "tcp") for words in ("fe80::1%eth0", "010.0.0.1", "FD88::1", "1")),
        *(Publish("", 1, 2, words) for words in (*INJECTIONS, "TCP", "icmp")),
        *(Publish("", *ports, "tcp") for ports in ((0, 1), (1, 0), (65536, 1), (1, -1))),
    ],
    ids=str,
)
def test_no_port_can_say_anything_else(port: Publish) -> None:
    with pytest.raises(TorporError):
        firewall.container_rules("web", lease(port))


@pytest.mark.parametrize("key", ["address", "address6", "bridge_address", "bridge_address6"])
@pytest.mark.parametrize("words", [*INJECTIONS[1:], "x/24", "10.0.0.1;x/24", "fe80::1%x/64"])
def test_no_address_can_say_anything_else(key: str, words: str) -> None:
    with pytest.raises(TorporError):
        firewall.container_rules("web", lease(Publish("", 1, 2, "tcp"), **{key: words}))


LENGTHS = ("x", "33", "-1", "129", "24 }", "24;", "²")


@pytest.mark.parametrize("length", LENGTHS)
def test_no_length_can_say_anything_else(length: str) -> None:
    for key, address in (("bridge_address", "10.88.0.1"), ("bridge_address6", "fd88::1")):
        if (key, length) != ("bridge_address6", "33"):
            with pytest.raises(TorporError):
                firewall.bridge_rules(lease(**{key: f"{address}/{length}"}))


SIGNS = ';{}"\n#'


def hostile(good: str) -> st.SearchStrategy[str]:
    return st.just(good) | st.text(f"{good}{SIGNS} ab1.:-*", max_size=len(good) + 2) | st.text()


@pytest.mark.fuzz
@cases(600)
@given(hostile("web"), hostile("br0"), hostile("10.88.0.1/24"), hostile("192.0.2.1"))
def test_text_is_refused_or_has_no_sign_of_its_own(
    name: str, bridge: str, address: str, host: str
) -> None:
    def say(name: str, bridge: str, address: str, host: str) -> str:
        one = lease(Publish(host, 1, 2, "tcp"), network=bridge, bridge_address=address)
        return firewall.container_rules(name, one) + firewall.bridge_rules(one)

    try:
        text = say(name, bridge, address, host)
    except TorporError:
        return
    clean = say("web", "br0", "10.88.0.1/24" if address else "", host)
    assert text.isascii()
    assert [text.count(sign) for sign in SIGNS] == [clean.count(sign) for sign in SIGNS]


def test_a_listener_has_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert firewall.port_in_use(Publish("", number, 1, "tcp"))
        assert firewall.port_in_use(Publish("127.0.0.1", number, 1, "tcp"))
        assert not firewall.port_in_use(Publish("127.0.0.2", number, 1, "tcp"))
        assert not firewall.port_in_use(Publish("", number, 1, "udp"))
    assert not firewall.port_in_use(Publish("", number, 1, "tcp"))
