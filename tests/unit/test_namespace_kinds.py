"""A namespace is the container's own, the host's, one by path, or another container's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import namespaces, yaml_tree
from torpor.namespaces import KINDS, Namespace
from torpor.values import WrongError

SHARED = sorted(set(KINDS) - {"mnt"})
BASE = namespaces.default()


def parse(text: str) -> dict[str, Namespace]:
    tree = yaml_tree.read("web.yaml", f"namespaces: {text}".encode())
    return dict(namespaces.parse(tree.entries["namespaces"][1]))


def refused(text: str) -> WrongError:
    with pytest.raises(WrongError) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("own", Namespace("own")),
        ("host", Namespace("host")),
        ("path:/run/netns//a", Namespace("path", "/run/netns/a")),
        ("path:/a:b", Namespace("path", "/a:b")),
        ("container:db-1", Namespace("container", "db-1")),
    ],
)
def test_each_kind_has_four_places(kind: str, words: str, found: Namespace) -> None:
    assert parse(f"{{{kind}: '{words}'}}") == {kind: found}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(
    "words", ["", "mine", "Own", "host:", "own:x", "container:", "container:a/b", "container", "'"]
)
def test_other_places_are_refused_in_their_line(kind: str, words: str) -> None:
    error = refused(f'\n  uts: own\n  {kind if kind != "uts" else "pid"}: "{words}"\n')
    assert "is no place of a namespace" in error.problem
    assert error.line == 3


@pytest.mark.parametrize("words", ["path:", "path:run", "path:/a/../b"])
def test_a_path_is_absolute_and_plain(words: str) -> None:
    assert refused(f"\n  net: {words!r}").line == 2


@pytest.mark.parametrize("words", ["host", "path:/proc/1/ns/mnt", "container:db", "x"])
def test_the_mount_namespace_is_always_its_own(words: str) -> None:
    assert parse("{mnt: own}") == {"mnt": Namespace("own")}
    error = refused(f"\n  mnt: {words!r}")
    assert (error.line, "mnt can only be own" in error.problem) == (2, True)


def test_an_unknown_kind_is_refused_in_its_line_with_the_known_one() -> None:
    error = refused("\n  pid: own\n  nett: own")
    assert (error.line, error.hint) == (3, "Did you mean 'net'?")


@pytest.mark.parametrize("text", ["own", "[net]", "", "{net: [own]}", "{net: }"])
def test_what_is_no_mapping_of_words_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("kind", SHARED)
def test_the_hosts_is_no_entry_and_ones_own_an_entry_without_a_path(kind: str) -> None:
    oci = KINDS[kind]
    joined = [*(entry for entry in BASE if entry["type"] != oci), {"type": oci, "path": "/x"}]
    others = [entry for entry in BASE if entry["type"] != oci]
    assert namespaces.section(joined, {kind: Namespace("host")}, {}) == others
    assert {"type": oci} in namespaces.section(joined, {kind: Namespace("own")}, {})


@pytest.mark.parametrize("kind", SHARED)
def test_one_by_path_and_another_containers_are_entries_with_a_path(kind: str) -> None:
    oci = KINDS[kind]
    by_path = namespaces.section(BASE, {kind: Namespace("path", "/run/n")}, {})
    others = namespaces.section(BASE, {kind: Namespace("container", "db")}, {kind: "/run/d"})
    assert {"type": oci, "path": "/run/n"} in by_path
    assert {"type": oci, "path": "/run/d"} in others
    assert len(by_path) == len(others) == len(BASE) + (kind == "user")


def test_the_order_of_what_was_there_stays() -> None:
    wanted = {"net": Namespace("path", "/n"), "pid": Namespace("own")}
    found = namespaces.section(BASE, wanted, {})
    assert [entry["type"] for entry in found] == [entry["type"] for entry in BASE]


def test_others_are_the_containers_whose_namespaces_are_joined() -> None:
    wanted = parse("{net: 'container:a', ipc: 'container:b', uts: own, pid: host}")
    assert namespaces.others(wanted) == {"net": "a", "ipc": "b"}


def test_a_joined_user_or_cgroup_namespace_keeps_it_from_waking() -> None:
    for kind in KINDS.values():
        joined = bool(namespaces.obstacle([*BASE, {"type": kind, "path": "/n"}]))
        assert joined is (kind in ("user", "cgroup"))
        assert not namespaces.obstacle([{"type": kind}, {"type": kind, "path": ""}])


@cases(500)
@given(
    st.sampled_from([*KINDS, "x"]),
    st.lists(
        st.sampled_from(["own", "host", "path", "container", ":", "/", "a", ".."])
        | st.text(max_size=3),
        max_size=5,
    ).map("".join),
)
def test_any_words_are_a_namespace_or_wrong(kind: str, words: str) -> None:
    node = yaml_tree.Mapping(1, {kind: (2, yaml_tree.Scalar(2, words, absent=False))})
    try:
        ((_, found),) = namespaces.parse(node).items()
    except WrongError as error:
        assert error.line in (1, 2, None)
    else:
        assert bool(found.where) is (found.how in ("path", "container"))
