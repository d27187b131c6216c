"""Leases: what is written is read again, and no two containers get the same."""

from pathlib import Path

import pytest

from torpor import addressing, lease, network, preparation, state
from torpor import container as containers
from torpor.addressing import Wish
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.lease import Lease, Publish, Table
from torpor.state import State

BRIDGE = "no-such-bridge0"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of leases that nobody else has; its containers' directories are in tmp_path."""
    for module in (containers, lease):
        monkeypatch.setattr(module, "STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setattr(lease, "FOREIGN_ROOT", str(tmp_path / "foreign"))
    monkeypatch.setattr(lease, "_LOCK", str(tmp_path / "locks/.networks"))
    return Table()


def wish(publish: tuple[str, ...] = (), **words: str) -> Wish:
    plan = [(preparation.NETWORK, preparation.value("kind", lease.BRIDGE))]
    plan.append((preparation.NETWORK, preparation.value("name", words.pop("name", BRIDGE))))
    plan += [(preparation.NETWORK, preparation.value(*pair)) for pair in words.items()]
    plan += [(preparation.NETWORK, preparation.value("publish", *p.split("|"))) for p in publish]
    return Wish(plan)


def give(table: Table, name: str, asked: Wish | None = None) -> Lease:
    with table:
        given = addressing.give(name, asked or wish(subnet="10.0.0.0/24"), table)
        table.write(Container(name), given)
    return given


def test_a_lease_is_read_as_it_was_written(table: Table) -> None:
    given = give(
        table,
        "web",
        wish(
            subnet="10.0.0.0/24",
            subnet6="fd00:1::/64",
            mtu="1400",
            mapped="yes",
            publish=("|8080|80|tcp", "::1|53|53|udp"),
        ),
    )
    found = lease.read(Container("web"))
    assert found is not None and found.serialize() == given.serialize()
    assert (found.mtu, found.mapped) == (1400, True)
    assert [str(one) for one in found.publish] == ["8080:80/tcp", "[::1]:53:53/udp"]


def test_who_has_no_lease_has_none(table: Table) -> None:
    assert lease.read(Container("web")) is None


@pytest.mark.parametrize(
    "text", [b"", b"torpor-lease=1\n", b"torpor-lease=1\nkind=bridge\n", b"torpor-lease=0\n"]
)
def test_half_a_lease_is_none(text: bytes) -> None:
    with pytest.raises(RecordError, match="here: "):
        lease.parse(text, "here")


def test_a_container_gets_the_same_address_and_mac_again(table: Table) -> None:
    first = give(table, "web")
    with table:
        table.remove(Container("web"))
    again = give(table, "web")
    assert (first.address, first.mac) == (again.address, again.mac)
    assert first.device != again.device


def test_a_small_subnet_is_used_up_to_the_last_address(table: Table) -> None:
    small = wish(subnet="10.0.0.0/29")
    given = {give(table, f"c{number}", small).address for number in range(5)}
    assert given == {f"10.0.0.{number}/29" for number in range(2, 7)}
    with pytest.raises(TorporError, match=r"network: subnet: no address of 10.0.0.0/29 is free"):
        give(table, "c5", small)


def test_the_bridge_is_the_gateway_unless_another_is_said(table: Table) -> None:
    ours = give(table, "a", wish(subnet="10.0.0.0/24", subnet6="fd00:1::/64"))
    assert (ours.gateway, ours.bridge_address) == ("10.0.0.1", "10.0.0.1/24")
    assert (ours.gateway6, ours.bridge_address6) == ("fd00:1::1", "fd00:1::1/64")
    lan = give(table, "b", wish(name="lan", subnet="10.1.0.0/24", gateway="10.1.0.254"))
    assert (lan.gateway, lan.bridge_address) == ("10.1.0.254", "")


def test_a_static_address_is_given_once(table: Table) -> None:
    static = wish(subnet="10.0.0.0/24", address="10.0.0.9/24")
    assert give(table, "a", static).address == "10.0.0.9/24"
    with pytest.raises(TorporError, match=r"10.0.0.9 on bridge .* is taken by a"):
        give(table, "b", static)
    other = wish(name="other", subnet="10.0.0.0/24", address="10.0.0.9/24")
    assert give(table, "c", other).address == "10.0.0.9/24"


def test_a_mac_is_given_once(table: Table) -> None:
    asked = wish(subnet="10.0.0.0/24", mac="02:00:00:00:00:01")
    give(table, "a", asked)
    with pytest.raises(TorporError, match=r"network: mac: .* is taken by a"):
        give(table, "b", asked)


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("|80|8080|tcp", "|80|9090|tcp", True),
        ("|80|8080|tcp", "127.0.0.1|80|8080|tcp", True),
        ("127.0.0.1|80|80|tcp", "127.0.0.2|80|80|tcp", False),
        ("|80|80|tcp", "|80|80|udp", False),
        ("|80|80|tcp", "|81|80|tcp", False),
    ],
)
def test_a_port_of_the_host_is_given_once(
    table: Table, one: str, other: str, collide: bool
) -> None:
    give(table, "a", wish(name="x", subnet="10.0.0.0/24", publish=(one,)))
    asked = wish(name="y", subnet="10.1.0.0/24", publish=(other,))
    if not collide:
        give(table, "b", asked)
        return
    with pytest.raises(TorporError, match=r"network: publish: .*: a has published that port"):
        give(table, "b", asked)


def test_who_names_no_subnet_gets_that_of_the_bridge_or_a_free_one(table: Table) -> None:
    first, second = give(table, "a", wish()), give(table, "b", wish())
    assert first.bridge_address == second.bridge_address
    third = give(table, "c", wish(name="another"))
    assert third.bridge_address != first.bridge_address
    assert third.bridge_address.startswith("10.83.")


def test_a_lease_of_another_boot_counts_only_for_who_sleeps(table: Table) -> None:
    static = wish(subnet="10.0.0.0/24", address="10.0.0.9/24")
    given = give(table, "a", static)
    given.boot = "another"
    with table:
        table.write(Container("a"), given)
    state.write(Container("a"), State(state.READY, generation=1))
    with pytest.raises(TorporError, match="is taken by a"):
        give(table, "b", static)
    state.write(Container("a"), State(state.RUNNING))
    assert give(table, "b", static).address == "10.0.0.9/24"


def test_a_saved_lease_is_given_again_unless_it_is_taken(table: Table) -> None:
    saved = give(table, "a")
    saved.boot = "another"
    with table:
        addressing.give_again("a", saved, table)
        table.write(Container("a"), saved)
    assert saved.boot == state.boot_id()
    with table:
        table.remove(Container("a"))
    give(table, "b", wish(subnet="10.0.0.0/24", address=saved.address))
    with table, pytest.raises(TorporError, match="is taken by b"):
        addressing.give_again("a", saved, table)


def test_containers_of_others_count_too(table: Table) -> None:
    static = wish(subnet="10.0.0.0/24", address="10.0.0.9/24")
    with table:
        given = addressing.give("x", static, table)
        table.write(lease.Foreign("x"), given)
    with pytest.raises(TorporError, match="is taken by x"):
        give(table, "b", static)
    with table:
        table.remove(lease.Foreign("x"))
    give(table, "b", static)


def test_a_lease_that_cannot_be_read_is_named(table: Table, tmp_path: Path) -> None:
    give(table, "a")
    Path(lease.path(Container("a"))).write_text("nonsense")
    with pytest.raises(TorporError, match="state/a/network"):
        give(table, "b")


def test_a_definition_leads_to_a_lease(table: Table) -> None:
    port = network.Port("", 8080, 80)
    asked = network.Network(
        lease.BRIDGE, BRIDGE, subnet="10.0.0.0/24", address="10.0.0.7/24", publish=(port,)
    )
    given = give(table, "web", Wish(asked.plan(is_mapped=True)))
    assert (given.address, given.mapped) == ("10.0.0.7/24", True)
    assert str(given.publish[0]) == str(Publish("", 8080, 80, "tcp"))
