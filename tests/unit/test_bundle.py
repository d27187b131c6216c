"""A bundle is read as it is, or refused by the file that is wrong."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rendered import runc_spec

from fuzz import cases
from torpor import bundle
from torpor.errors import DefinitionError
from torpor.oci_config import ShapeError


def write(tmp_path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.json").write_bytes(raw)


def refused(tmp_path: Path, content: str | bytes) -> DefinitionError:
    write(tmp_path, content)
    with pytest.raises(DefinitionError) as caught:
        bundle.load(str(tmp_path))
    assert caught.value.message.startswith(f"{tmp_path}/config.json: ")
    return caught.value


def test_a_bundle_is_read_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(runc_spec()))
    assert bundle.load(str(tmp_path)) == runc_spec()


NOT_ONE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "not JSON"),
    "list": ("[]", "not a JSON object"),
    "null": ("null", "not a JSON object"),
    "cut": ("{", "not JSON"),
    "twice": ('{"a": 1, "a": 2}', "given twice"),
    "nan": ('{"a": NaN}', "not a number"),
    "infinite": ('{"a": 1e999}', "not a number"),
    "long-number": ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    "deep-list": ("[" * 100_000, "nested more than"),
    "deep-object": ('{"a":' * 80 + "1" + "}" * 80, "nested more than"),
    "not-utf-8": (b'{"a": "\xff"}', "not JSON"),
    "no-root": ('{"ociVersion": "1.0.2"}', "no root.path"),
    "no-version": ('{"root": {"path": "r"}}', "no ociVersion"),
    "no-args": ('{"ociVersion": "1", "root": {"path": "r"}, "process": []}', "no process.args"),
    "no-text": (
        '{"ociVersion": "1", "root": {"path": "r"}, "process": {"args": [1]}}',
        "no process.args",
    ),
}


@pytest.mark.parametrize("kind", NOT_ONE)
def test_a_config_that_is_no_bundles_is_refused_by_file(tmp_path: Path, kind: str) -> None:
    content, problem = NOT_ONE[kind]
    assert problem in refused(tmp_path, content).message


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "annotations", []),
        ("", "linux", "x"),
        ("", "hooks", 1),
        ("", "mounts", {}),
        ("", "mounts", ["x"]),
        ("", "mounts", [{}]),
        ("", "mounts", [{"destination": 5}]),
        ("", "mounts", [{"destination": "/a", "options": "ro"}]),
        ("", "mounts", [{"destination": "/a", "options": [None]}]),
        ("", "mounts", [{"destination": "/a", "source": []}]),
        ("process", "user", []),
        ("process", "user", {"uid": "0"}),
        ("process", "user", {"gid": -1}),
        ("process", "user", {"gid": True}),
        ("process", "user", {"additionalGids": [None]}),
        ("process", "capabilities", []),
        ("process", "env", "A=1"),
        ("process", "env", ["A=1", 5]),
        ("linux", "namespaces", {}),
        ("linux", "namespaces", [{}]),
        ("linux", "namespaces", [{"type": ["pid"]}]),
        ("linux", "namespaces", [{"type": "pid", "path": 1}]),
        ("linux", "uidMappings", [{"containerID": 0}]),
        ("linux", "uidMappings", [{"containerID": 0, "hostID": 1 << 32}]),
        ("linux", "gidMappings", [5]),
    ],
)
def test_a_part_of_a_wrong_kind_is_refused_by_name(
    tmp_path: Path, section: str, key: str, value: object
) -> None:
    config = runc_spec()
    (config[section] if section else config)[key] = value
    assert key in refused(tmp_path, json.dumps(config)).message


@pytest.mark.parametrize("key", ["annotations", "linux", "hooks", "mounts"])
def test_null_is_as_good_as_absent(key: str) -> None:
    bundle.require_shape(runc_spec() | {key: None})
    bundle.require_shape({})


def test_looking_at_the_shape_changes_nothing() -> None:
    config = {"linux": None, "process": {"user": None}}
    before = copy.deepcopy(config)
    bundle.require_shape(config)
    assert config == before


def test_a_bundle_without_a_config_a_fifo_or_a_giant_is_refused(tmp_path: Path) -> None:
    for prepare in (lambda path: None, os.mkfifo, os.mkdir):
        path = tmp_path / prepare.__name__.strip("<>")
        path.mkdir()
        prepare(path / "config.json")
        with pytest.raises(DefinitionError, match=r"config\.json: cannot read"):
            bundle.load(str(path))
    write(tmp_path, b"{}")
    os.truncate(tmp_path / "config.json", bundle.SIZE_LIMIT_BYTES + 1)
    with pytest.raises(DefinitionError, match="larger than"):
        bundle.load(str(tmp_path))


def test_a_relative_root_begins_at_the_bundle_and_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "link").symlink_to("rootfs")
    for path in ("rootfs", "link", f"{tmp_path}/link", "./link/../rootfs"):
        found = bundle.resolve_root(str(tmp_path), {"root": {"path": path}})
        assert found == str(tmp_path / "rootfs")


@pytest.mark.parametrize("path", ["none", "a\0b"])
def test_a_root_path_that_is_none_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DefinitionError, match=r"config\.json: root\.path"):
        bundle.resolve_root(str(tmp_path), {"root": {"path": path}})


@pytest.mark.parametrize("path", ["", 5, None, []])
def test_a_root_path_that_is_no_path_is_refused(tmp_path: Path, path: object) -> None:
    config = runc_spec() | {"root": {"path": path}}
    assert "root.path" in refused(tmp_path, json.dumps(config)).message


@cases(150)
@given(st.binary(max_size=80) | st.text(alphabet='{}[]",:0eN\\u', max_size=40).map(str.encode))
def test_no_bytes_end_in_anything_but_a_definition_error(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["mounts", "options", "process", "user", "uid", "linux", "namespaces", "type"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@cases(300)
@given(st.dictionaries(st.sampled_from(["mounts", "process", "linux", "hooks"]), json_values))
def test_any_object_has_the_shape_or_not(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    try:
        bundle.require_shape(config)
    except ShapeError as error:
        assert str(error)
    assert config == before
