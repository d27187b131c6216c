"""A map of ids is one that the kernel takes, or refused with the line that is wrong."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import idmap, yaml_tree
from torpor.idmap import IdMap, Range
from torpor.values import WrongError

LAST_ID = (1 << 32) - 2
SUBUID = b"""# users
web:100000:1000
other:300000:65536
1033:5000:10
broken
other:x:y

 web:200000:64536
"""
SUBGID = b"web:7000:65536\n"
PASSWD = b"root:x:0:0::/:\nother:x:1000:1000::/:\nweb:x:1033:1033::/:\n"


def parse(text: str) -> IdMap:
    return idmap.parse_idmap(
        yaml_tree.read("web.yaml", f"idmap: {text}".encode()).entries["idmap"][1]
    )


def refused(text: str) -> WrongError:
    with pytest.raises(WrongError) as caught:
        parse(text)
    return caught.value


def test_one_list_is_for_uids_and_gids() -> None:
    ranges = (Range(0, 1000, 1), Range(1, 100000, 65535))
    assert parse("[1:100000:65535, 0:1000:1]") == IdMap(ranges, ranges)
    assert parse("0:100000:65536").uids == (Range(0, 100000, 65536),)


def test_uids_and_gids_may_differ() -> None:
    assert parse("{uids: [0:1:2], gids: 0:3:4}") == IdMap((Range(0, 1, 2),), (Range(0, 3, 4),))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[]", 1, "has 0 ranges"),
        ("{uids: [0:1:2]}", 1, "has no gids"),
        ("{}", 1, "has no uids"),
        ("{uids: [0:1:2], gid: [0:1:2]}", 1, "'gid' is unknown"),
        ("0:1", 1, "'0:1' is not a range"),
        ("0:1:2:3", 1, "is not a range"),
        ("0::1:2", 1, "is not a range"),
        ("'0:1:'", 1, "is not a range"),
        ("0:-1:2", 1, "is not a range"),
        ("0:+1:2", 1, "is not a range"),
        ("0:99999999999:2", 1, "is not a range"),
        ("[[0:1:2]]", 1, "is a list"),
        ("\n- 0:1:2\n- 5:1000:0\n", 3, "range 5:1000:0 is empty"),
        (f"\n- 0:1:2\n- 5:{LAST_ID}:2\n", 3, "goes beyond the last id"),
        (f"\n- 0:1:2\n- {LAST_ID + 1}:9:1\n", 3, "goes beyond the last id"),
        ("\n- 10:100:10\n- 0:500:11\n", 3, "overlap: they share ids of the container"),
        ("\n- 0:100:10\n- 10:91:10\n", 3, "overlap: they share ids of the host"),
        ("\n- 0:100:10\n- 0:100:10\n", 3, "overlap"),
        ("\n- 1:100:10\n- 11:200:10\n", 2, "does not map the container's id 0"),
    ],
)
def test_a_map_that_the_kernel_or_runc_refuses_is_refused_in_its_line(
    text: str, line: int, problem: str
) -> None:
    error = refused(text)
    assert error.line == line
    assert problem in error.problem


def test_the_last_id_can_be_mapped() -> None:
    assert idmap.covers(parse(f"[0:1:1, {LAST_ID}:{LAST_ID}:1]").uids, LAST_ID)


def test_more_than_linux_takes_is_refused() -> None:
    def ranges(count: int, size: int = 1) -> str:
        return str([f"{one}:{one * size}:1" for one in range(count)]).replace("'", "")

    assert len(parse(ranges(340)).uids) == 340
    assert "has 341 ranges" in refused(ranges(341)).problem
    assert "bytes" in refused(ranges(340, 1_000_000)).problem


def test_a_map_may_take_a_page_less_one_byte() -> None:
    ranges = "".join(f", {one}:{one}000:1" for one in range(1000, 1272))  # 15 bytes each
    assert len(parse(f"[0:10000000:999{ranges}]").uids) == 273
    assert "take 4096 bytes" in refused(f"[0:100000000:999{ranges}]").problem


def test_an_id_of_the_container_is_one_of_the_host_or_none() -> None:
    ranges = parse("[0:1000:1, 1:100000:9, 20:7:2]").uids
    mapped = {container_id: idmap.to_host(ranges, container_id) for container_id in range(-1, 24)}
    expected = {0: 1000, 20: 7, 21: 8} | {one: 99999 + one for one in range(1, 10)}
    assert {key: value for key, value in mapped.items() if value is not None} == expected
    assert idmap.covers(ranges, 21) and not idmap.covers(ranges, 22)


def test_the_owner_is_the_containers_root_on_the_host() -> None:
    assert idmap.owner(parse("{uids: [1:5:1, 0:7:1], gids: [0:8:1]}")) == (7, 8)


def test_the_configuration_has_the_words_of_oci() -> None:
    assert idmap.linux_section(parse("{uids: [0:1:2], gids: [0:3:4]}")) == {
        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
        "gidMappings": [{"containerID": 0, "hostID": 3, "size": 4}],
    }


@pytest.mark.parametrize(("text", "name"), [("web", "web"), ("1033", "1033")])
def test_a_userns_is_a_user(text: str, name: str) -> None:
    assert idmap.parse_userns(yaml_tree.Scalar(1, text, absent=False)) == name


@pytest.mark.parametrize("text", ["", "a:b", "a b", "-1", "../x"])
def test_a_userns_that_is_no_user_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        idmap.parse_userns(yaml_tree.Scalar(1, text, absent=False))


def test_subordinate_ranges_lie_end_to_end_the_lowest_host_id_first() -> None:
    found = idmap.subordinate("web", SUBUID, SUBGID)
    assert found.uids == (Range(0, 100000, 1000), Range(1000, 200000, 64536))
    assert found.gids == (Range(0, 7000, 65536),)


@pytest.mark.parametrize("name", ["web", "1033"])
def test_a_line_may_name_the_user_or_its_uid(name: str) -> None:
    found = idmap.subordinate(name, SUBUID, SUBGID, PASSWD)
    assert found.uids[0] == Range(0, 5000, 10)
    assert sum(one.size for one in found.uids) == 65546


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "/etc/subuid: has no range of user 'web'"),
        (b"web2:1:1\n", "/etc/subuid: has no range of user 'web'"),
        (b"x:1:1\nweb:1\n", "/etc/subuid:2: is not NAME:FIRST:SIZE"),
        (b"web:1:1:1\n", "/etc/subuid:1: is not NAME:FIRST:SIZE"),
        (b"web:\xb2:1\n", "/etc/subuid:1: is not NAME:FIRST:SIZE"),
        (b"\nweb:1:0\n", "/etc/subuid:2: range 0:1:0 is empty"),
        (b"web:1:9\nweb:4294967295:1\n", "/etc/subuid:2: range 9:4294967295:1 goes beyond"),
        (b"web:5:9\n\nweb:1:5\n", "/etc/subuid:3: ranges 0:1:5 and 5:5:9 overlap"),
        (b"".join(b"web:%d:1\n" % (9 * one) for one in range(341)), "/etc/subuid:1: has 341"),
    ],
)
def test_wrong_subordinate_ids_are_refused_with_file_and_line(content: bytes, problem: str) -> None:
    with pytest.raises(WrongError) as caught:
        idmap.subordinate("web", content, SUBGID)
    assert caught.value.line is None
    assert caught.value.problem.startswith(problem)


def test_the_machines_files_are_read_and_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("subuid", SUBUID), ("subgid", SUBGID), ("_passwd", PASSWD)):
        (tmp_path / name).write_bytes(content)
        monkeypatch.setattr(idmap, name.upper(), str(tmp_path / name))
    assert idmap.read_subordinate("web") == idmap.subordinate("web", SUBUID, SUBGID, PASSWD)
    (tmp_path / "subgid").unlink()
    with pytest.raises(WrongError, match=r"/subgid: has no range"):
        idmap.read_subordinate("web")
    os.mkfifo(tmp_path / "subgid")
    with pytest.raises(WrongError, match=r"/subgid: cannot be read: it is not a regular file"):
        idmap.read_subordinate("web")


def require_sound(ranges: tuple[Range, ...]) -> None:
    """What map_write() of Linux's kernel/user_namespace.c asks for."""
    for one in ranges:
        assert one.size > 0 and max(one.container_id, one.host_id) + one.size <= LAST_ID + 1
    for side in ("container_id", "host_id"):
        taken = sorted((getattr(one, side), one.size) for one in ranges)
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(taken))
    assert len(ranges) <= 340 and idmap.covers(ranges, 0)
    assert sum(len(f"{one}\n") for one in ranges) < 4096


drawn = st.binary(min_size=24, max_size=24)  # a fixed size is drawn in half the time
NUMBERS = ("0", "1", "2", "3", "5", "9", "4294967294", "4294967295", "99999999999", "", "x", "-1")


def numbers(choice: bytes) -> list[str]:
    """Mostly small numbers, so that many ranges go together."""
    return [NUMBERS[byte % 12] if byte < 48 else str(byte) for byte in choice]


@cases(600)
@given(drawn)
def test_every_list_of_ranges_is_sound_or_refused(choice: bytes) -> None:
    words = numbers(choice[1:])
    items = [":".join(words[at : at + 3]) for at in range(0, 3 * (choice[0] % 5), 3)]
    nodes: list[yaml_tree.Node] = [yaml_tree.Scalar(1, text, absent=False) for text in items]
    try:
        found = idmap.parse_idmap(yaml_tree.Sequence(1, nodes))
    except WrongError:
        return
    require_sound(found.uids)
    assert found.uids == found.gids


@cases(600)
@given(drawn)
def test_every_subordinate_file_gives_sound_ids_or_is_refused(choice: bytes) -> None:
    names = ("web:", "web:", "1033:", "other:", "#", "web", "\r")
    words = numbers(choice)
    text = "\n".join(
        f"{names[choice[at] % 7]}{words[at + 1]}:{words[at + 2]}" for at in range(0, 12, 3)
    )
    for content in (text.encode(), choice, b"web:" + choice):
        try:
            found = idmap.subordinate("web", content, SUBGID, content)
        except WrongError:
            continue
        require_sound(found.uids)
