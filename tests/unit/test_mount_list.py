"""Mounts are what was asked for, each place once, and none hides what is mounted below it."""

import dataclasses
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import mount_list, yaml_tree
from torpor.mount_list import BIND, TMPFS, VOLUME, Mount
from torpor.values import WrongError


def parse(text: str) -> tuple[Mount, ...]:
    return mount_list.parse(
        yaml_tree.read("web.yaml", f"mounts: {text}".encode()).entries["mounts"][1]
    )


def refused(text: str) -> WrongError:
    with pytest.raises(WrongError) as caught:
        parse(text)
    return caught.value


def at(destination: str, source: str = "base") -> dict[str, Any]:
    return {"destination": destination, "source": source}


def order(*destinations: str) -> list[str]:
    mounts, _ = mount_list.merged([at(one) for one in destinations], [])
    return [mount["destination"] for mount in mounts]


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/srv:/data", Mount("/data", BIND, "/srv")),
        ("/srv//a/:/data/:ro", Mount("/data", BIND, "/srv/a", ("ro",))),
        ("/srv:/data:bind", Mount("/data", BIND, "/srv", (), recursive=False)),
        ("/srv:/data:rbind,ro", Mount("/data", BIND, "/srv", ("ro",))),
        ("/srv:/data:", Mount("/data", BIND, "/srv")),
        ("files:/data:Z", Mount("/data", VOLUME, "files", ("Z",))),
        ("tmpfs:/tmp:size=1m,mode=1777", Mount("/tmp", TMPFS, "", ("size=1m", "mode=1777"))),
        ("{destination: /tmp}", Mount("/tmp", TMPFS)),
        ("{destination: /d, source: 'a.b'}", Mount("/d", VOLUME, "a.b")),
        ("{destination: /d, source: '/a:b'}", Mount("/d", BIND, "/a:b")),
        (
            "{destination: /d, source: /a, type: none, options: bind}",
            Mount("/d", BIND, "/a", (), recursive=False),
        ),
        ("{destination: /d, source: /a, options: [rbind, ro]}", Mount("/d", BIND, "/a", ("ro",))),
        ("{destination: /p, type: proc}", Mount("/p", "proc")),
    ],
)
def test_a_mount_is_what_was_written(text: str, mount: Mount) -> None:
    (found,) = parse(f"[{text}]" if text.startswith("{") else f"[{text!r}]")
    assert dataclasses.replace(found, line=0) == mount


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[/srv]", "is no mount"),
        ("['/a:/b:ro:x']", "is no mount"),
        ("['/srv:data']", "not an absolute path"),
        ("['/srv:/']", "cannot be mounted over"),
        ("['/srv:/a/../b']", "contains '..'"),
        ("['./srv:/data']", "neither a volume's name nor a path"),
        ("['-x:/data']", "neither a volume's name nor a path"),
        ("['/a:/d', 'v:/d/']", "mounted twice"),
        ("['/a:/d:a b']", "no mount option"),
        ("['tmpfs:/d:Z']", "no files to relabel"),
        ("[{destination: /d, type: proc, options: z}]", "no files to relabel"),
        ("[{destination: /d, type: ext4, source: /dev/sda1}]", "no type of mount here"),
        ("[{source: /d}]", "has no destination"),
        ("[{destination: /d, src: /a}]", "has no 'src'"),
        ("[{destination: /d, options: bind}]", "not an absolute path"),
        ("[[/a]]", "a mount is a list"),
    ],
)
def test_what_is_no_mount_is_refused(text: str, problem: str) -> None:
    assert problem in refused(text).problem


def test_a_wrong_mount_is_blamed_in_its_own_line() -> None:
    assert refused("\n- /a:/b\n- {destination: /c,\n   kind: proc}\n").line == 4
    assert refused("\n- /a:/b\n- /c:/b\n").line == 3


def test_a_bind_is_private_unless_one_says_otherwise() -> None:
    (private, shared) = parse("['/a:/b', '/a:/c:ro,rslave']")
    assert mount_list.entry(private, "/real") == {
        "destination": "/b",
        "type": "bind",
        "source": "/real",
        "options": ["rbind", "rprivate"],
    }
    assert mount_list.entry(shared, "/real")["options"] == ["rbind", "ro", "rslave"]


def test_a_tmpfs_has_neither_devices_nor_setuid_programs() -> None:
    (mount,) = parse("['tmpfs:/t:nodev,size=1m']")
    assert mount_list.entry(mount, "")["options"] == ["nosuid", "nodev", "size=1m"]


@pytest.mark.parametrize(
    ("mount", "is_bind"),
    [
        ({"type": "bind"}, True),
        ({"type": "none", "options": ["rbind"]}, True),
        ({"options": ["ro", "bind"]}, True),
        ({"type": "tmpfs", "options": None}, False),
        ({}, False),
    ],
)
def test_a_bind_mount_is_known_by_its_type_or_an_option(
    mount: dict[str, Any], is_bind: bool
) -> None:
    assert mount_list.is_bind(mount) is is_bind


def test_what_is_wanted_replaces_what_is_there_in_its_place_and_is_named() -> None:
    base = [at("/a"), at("/b/"), at("/c")]
    mounts, replaced = mount_list.merged(base, [at("/b", "mine"), at("/d", "mine")])
    assert mounts == [at("/a"), at("/b", "mine"), at("/c"), at("/d", "mine")]
    assert replaced == ["/b"]


def test_a_remount_of_the_same_place_stays() -> None:
    base = [at("/a"), at("/a", "remount")]
    assert mount_list.merged(base, [at("/b")])[0] == [*base, at("/b")]
    assert mount_list.merged(base, [at("/a", "mine")])[0] == [at("/a", "mine")]


def test_an_order_in_which_nothing_is_hidden_stays() -> None:
    places = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/sys/fs/cgroup", "/a"]
    assert order(*places) == places


def test_what_would_hide_a_deeper_mount_is_mounted_before_it() -> None:
    assert order("/x", "/a/b/c", "/ab", "/a/b", "/a") == ["/x", "/a", "/a/b", "/a/b/c", "/ab"]
    assert order("/a", "/") == ["/", "/a"]


def test_many_mounts_are_sorted_quickly() -> None:
    places = [f"/{index}/x" for index in range(50_000)] + [f"/{index}" for index in range(50_000)]
    assert len(order(*places)) == 100_000


destinations = st.lists(st.sampled_from(["a", "b", "", ".", "c/"]), max_size=4).map(
    lambda words: "/" + "/".join(words)
)
lists = st.lists(destinations, max_size=8)


def each_once(places: list[str]) -> list[str]:
    return list({mount_list.normal(place): place for place in places}.values())


@cases(300)
@given(lists, lists)
def test_no_mount_hides_another_and_no_place_is_mounted_twice(
    base: list[str], wanted: list[str]
) -> None:
    theirs, mine = ({*map(mount_list.normal, places)} for places in (base, wanted))
    mounts, replaced = mount_list.merged(
        [at(place) for place in each_once(base)], [at(place, "mine") for place in each_once(wanted)]
    )
    places = [mount_list.normal(mount["destination"]) for mount in mounts]
    assert len(places) == len(set(places))
    assert set(places) == theirs | mine
    assert set(replaced) == theirs & mine
    for index, (place, mount) in enumerate(zip(places, mounts, strict=True)):
        assert (mount["source"] == "mine") is (place in mine)
        below = f"{place.rstrip('/')}/"
        assert not any(earlier.startswith(below) for earlier in places[:index])


@cases(300)
@given(lists)
def test_mounts_that_are_in_order_stay_so(places: list[str]) -> None:
    once = order(*places)
    assert order(*once) == once


@cases(300)
@given(
    st.lists(
        st.sampled_from(["/", ":", "a", "tmpfs", "ro", "bind", "Z", ",", "=", "..", "\\t", "é"])
        | st.text(max_size=4),
        max_size=8,
    ).map("".join)
)
def test_any_words_are_a_mount_or_wrong(words: str) -> None:
    try:
        (mount,) = mount_list.parse(yaml_tree.Scalar(1, words, absent=False))
    except WrongError as error:
        assert error.problem.isprintable()
    else:
        assert os.path.normpath(mount.destination) == mount.destination != "/"
        assert "bind" not in mount.options
