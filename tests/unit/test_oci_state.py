"""What hooks believe of the state that a runtime gives them."""

import builtins
import json
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import cases
from torpor import oci_state
from torpor.errors import TorporError

STATE = {
    "ociVersion": "1.0.2-dev",
    "id": "web",
    "status": "creating",
    "pid": 4321,
    "bundle": "/srv/web",
    "annotations": {"a": 'b"\\u00e9'},
}
quick = settings(database=None, deadline=None)


def read(content: bytes) -> oci_state.OciState:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return oci_state.read(file.fileno())


def changed(**fields: object) -> bytes:
    return json.dumps(STATE | fields).encode()


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in STATE.items() if name != key}).encode()


def test_a_state_is_read_as_it_is() -> None:
    told = read(json.dumps(STATE).encode())
    assert (told.id, told.status, told.pid, told.bundle) == ("web", "creating", 4321, "/srv/web")


@pytest.mark.parametrize("none", [changed(annotations=None), without("annotations")])
def test_a_container_needs_no_annotations(none: bytes) -> None:
    assert read(none).annotations == {}
    assert read(json.dumps(STATE).encode()).annotations == STATE["annotations"]


def test_blanks_around_it_do_not_matter() -> None:
    assert read(b" \r\n\t" + json.dumps(STATE, indent=2).encode() + b"\n").id == "web"


def test_a_stopped_container_needs_no_pid() -> None:
    assert read(json.dumps({**json.loads(without("pid")), "status": "stopped"}).encode()).pid == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   ",
        b"null",
        b"[]",
        b'"web"',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(STATE).encode() + b"{}",
        json.dumps(STATE).encode()[:-1],
        b'{"id": NaN}',
        changed(pid="1"),
        changed(pid=True),
        changed(pid=1.0),
        changed(pid=-1),
        changed(pid=1 << 22),
        changed(pid=None),
        changed(id=""),
        changed(id=5),
        changed(id=None),
        changed(status="asleep"),
        changed(status=["creating"]),
        changed(bundle="srv/web"),
        changed(bundle={}),
        changed(annotations=[]),
        changed(annotations="a"),
        changed(annotations={"a": 1}),
        changed(annotations={"a": None}),
        without("id"),
        without("status"),
        without("bundle"),
    ],
)
def test_what_is_no_state_is_refused(content: bytes) -> None:
    with pytest.raises(TorporError, match="no OCI container state"):
        read(content)


def test_every_shorter_state_is_refused() -> None:
    whole = json.dumps(STATE).encode()
    for length in range(len(whole)):
        with pytest.raises(TorporError):
            oci_state.parse(whole[:length])


def test_a_state_without_end_is_refused() -> None:
    with (
        open("/dev/zero", "rb", buffering=0) as zero,
        pytest.raises(TorporError, match="larger than"),
    ):
        oci_state.read(zero.fileno())


@quick
@given(st.binary(max_size=80) | st.text(alphabet='{}[]",:0eN\\u', max_size=40).map(str.encode))
def test_no_bytes_end_in_anything_but_a_fault(content: bytes) -> None:
    with pytest.raises(TorporError):
        oci_state.parse(content)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@cases(40)
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_other_keys_are_passed_over(others: dict[str, Any]) -> None:
    assert oci_state.parse(json.dumps({**others, **STATE}).encode()).id == "web"


@pytest.mark.parametrize(
    ("content", "is_state"), [(changed(), True), (changed()[:-1], False), (b'{"id": NaN}', False)]
)
def test_a_python_without_the_c_module_reads_the_same(
    monkeypatch: pytest.MonkeyPatch, content: bytes, is_state: bool
) -> None:
    there: Callable[..., Any] = builtins.__import__

    def without_c(name: str, *rest: Any) -> Any:  # noqa: ANN401
        if name == "_json":
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_c)
    if is_state:
        assert oci_state.parse(content).id == "web"
    else:
        with pytest.raises(TorporError):
            oci_state.parse(content)
