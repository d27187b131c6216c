"""CRIU's images say that CRIU stood outside of the network namespace, in which it was."""

import os
from pathlib import Path

import pytest

from torpor import preparation, vantage
from torpor.container import Container
from torpor.errors import CheckpointError
from torpor.vantage import Vantage

# As CRIU 4.2.1 wrote it; its own network namespace has the number 2.
INVENTORY = bytes.fromhex(
    "1631315850000000080210011a1808011001180120012801300238034004480650075808600520012801"
    "30005001580262006a2463316266373761312d316436312d343264622d383933662d643438356166353636643230"
)
# What CRIU says of a namespace that runc is given by path.
NETNS = bytes.fromhex("19435654523793550e000000420c657874526f6f744e65744e53")
UNKNOWN = b"\x78\x05" + b"\x85\x01" + bytes(4) + b"\x81\x01" + bytes(8)  # of three types


def with_size(message: bytes) -> bytes:
    return INVENTORY[:4] + len(message).to_bytes(4, "little") + message


def test_criu_is_in_another_namespace_then() -> None:
    number, mended = vantage.stand_outside(INVENTORY)
    assert number == 2
    assert mended == with_size(
        INVENTORY[8:12]
        + bytes.fromhex("1a1c")
        + INVENTORY[14:38]
        + bytes.fromhex("30808004")
        + INVENTORY[38:]
    )
    assert vantage.stand_outside(mended)[0] == 1 << 16


def test_what_a_newer_criu_adds_stays() -> None:
    _, mended = vantage.stand_outside(with_size(INVENTORY[8:] + UNKNOWN))
    assert mended.endswith(INVENTORY[38:] + UNKNOWN)


@pytest.mark.parametrize("length", range(len(INVENTORY)))
def test_one_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises((ValueError, IndexError)):
        vantage.stand_outside(INVENTORY[:length])


@pytest.mark.parametrize("length", [1, 3, 5, 20])
def test_a_message_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises((ValueError, IndexError)):
        vantage.stand_outside(with_size(INVENTORY[8 : 8 + length]))


def test_a_namespace_that_runc_was_given_has_an_image(tmp_path: Path) -> None:
    (tmp_path / "inventory.img").write_bytes(INVENTORY)
    Vantage(1, is_given=True).mend(str(tmp_path))
    assert (tmp_path / "netns-2.img").read_bytes() == NETNS
    assert (tmp_path / "inventory.img").read_bytes() == vantage.stand_outside(INVENTORY)[1]


def test_one_that_runc_makes_has_none(tmp_path: Path) -> None:
    (tmp_path / "inventory.img").write_bytes(INVENTORY)
    Vantage(1, is_given=False).mend(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["inventory.img"]


def test_what_it_does_not_know_is_said_to_be_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "inventory.img").write_bytes(INVENTORY[:-1])
    with pytest.raises(CheckpointError) as raised:
        Vantage(1, is_given=False).mend(str(tmp_path))
    assert vantage.is_in_the_way(raised.value.message)
    assert (tmp_path / "inventory.img").read_bytes() == INVENTORY[:-1]


def test_a_namespace_within_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "netns-7.img").write_bytes(b"")
    with pytest.raises(CheckpointError) as raised:
        Vantage(1, is_given=False).mend(str(tmp_path))
    assert vantage.is_in_the_way(raised.value.message)


def test_criu_stays_outside_of_a_namespace_that_others_live_in() -> None:
    container = Container("web")
    pid = os.getpid()
    for plan in ([], [(preparation.JOIN, "net\tother")], [(preparation.NAMESPACE, "network\t/x")]):
        assert vantage.of(container, plan, pid, [pid]) is None
