"""The state machine and its records."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor import record, state
from torpor.container import Container
from torpor.errors import RecordError, TorporError
from torpor.state import State

THIS, OTHER = "this-boot", "other-boot"
MANY = 8


@pytest.mark.parametrize(
    ("name", "boot", "attempt", "expected"),
    [
        (state.NONE, "", 0, state.COLD),
        (state.EXITED, THIS, 0, state.COLD),
        (state.RUNNING, THIS, 0, state.COLD),
        (state.RUNNING, OTHER, 0, state.COLD),
        (state.DUMPING, THIS, 0, state.COLD),
        (state.COMMITTED, THIS, 0, state.WAKE),
        (state.COMMITTED, OTHER, 0, state.WAKE),
        (state.READY, THIS, 0, state.WAKE),
        (state.READY, OTHER, 0, state.WAKE),
        (state.RESTORING, OTHER, 1, state.WAKE),
        (state.RESTORING, THIS, state.MAX_RESTORE_ATTEMPTS, state.GIVE_UP),
        (state.CONSUMED, THIS, 1, state.COLD),
        (state.CONSUMED, OTHER, 1, state.COLD),
        (state.DAMAGED, OTHER, 0, state.REFUSE),
        (state.CRASHED, THIS, 0, state.COLD),
        (state.REPLACING, OTHER, 0, state.REPLACE),
        (state.LEAVING, OTHER, 0, state.AWAY),
        (state.MOVED, OTHER, 0, state.AWAY),
    ],
)
def test_the_next_start_has_one_answer(name: str, boot: str, attempt: int, expected: str) -> None:
    assert state.plan(State(name, boot=boot, attempt=attempt)) == expected


def test_every_state_has_an_answer() -> None:
    answers = {state.COLD, state.WAKE, state.GIVE_UP, state.REFUSE, state.REPLACE, state.AWAY}
    for name in state.STATES:
        assert state.plan(State(name)) in answers


@pytest.mark.parametrize(
    ("name", "failed", "after"),
    [
        (state.RUNNING, False, state.EXITED),
        (state.RUNNING, True, state.CRASHED),
        (state.CONSUMED, True, state.CRASHED),
        (state.DUMPING, False, state.NONE),
        (state.DUMPING, True, state.CRASHED),
    ],
)
def test_an_end_is_recorded_as_systemd_sees_it(name: str, failed: bool, after: str) -> None:
    ended = state.after_end(State(name, generation=4), "gone", failed=failed)
    assert ended is not None
    assert (ended.name, ended.generation) == (after, 4)


@pytest.mark.parametrize("name", sorted(state.RESTORABLE | {state.EXITED, state.DAMAGED}))
def test_what_sleeps_or_has_ended_does_not_end_again(name: str) -> None:
    assert state.after_end(State(name), "gone", failed=True) is None


def test_only_what_ran_to_no_end_has_crashed() -> None:
    crashed = {name for name in state.STATES if state.has_crashed(State(name))}
    assert crashed == {state.RUNNING, state.CONSUMED, state.DUMPING, state.CRASHED}


def test_after_a_snapshot_a_container_runs_as_before() -> None:
    before = State(
        state.CONSUMED,
        generation=3,
        boot=THIS,
        since_s=9.0,
        reason="why",
        inputs="digest",
        rootfs="1:2",
    )
    after = before.after_snapshot(4)
    assert (after.name, after.generation) == (state.RUNNING, 4)
    for name in ("boot", "since_s", "reason", "inputs", "rootfs"):
        assert getattr(after, name) == getattr(before, name)


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    monkeypatch.setattr("torpor.container.STATE_ROOT", str(tmp_path / "state"))
    return Container("web")


def test_a_state_is_read_back_as_it_was_written(container: Container) -> None:
    written = State(
        state.READY,
        generation=3,
        boot=THIS,
        since_s=12.5,
        attempt=2,
        reason="systemctl stop\nforged=1",
        inputs="digest",
        rootfs="1:2",
        frozen_s=0.25,
    )
    state.write(container, written)
    back = state.read(container)
    for name in State.__slots__:
        if name != "reason":
            assert getattr(back, name) == getattr(written, name)
    assert back.reason == "systemctl stop forged=1"


def test_no_record_is_no_memory(container: Container) -> None:
    assert state.read(container).name == state.NONE


def test_the_record_is_readable_by_its_owner_alone(container: Container) -> None:
    state.write(container, State(state.READY))
    assert Path(container.state_path).stat().st_mode & 0o777 == 0o600
    assert Path(container.state_dir).stat().st_mode & 0o777 == 0o700


def test_a_cut_record_is_never_believed(container: Container) -> None:
    state.write(container, State(state.READY, generation=3))
    whole = Path(container.state_path).read_bytes()
    for length in range(len(whole)):
        with pytest.raises(RecordError):
            state.parse(whole[:length], "state")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_state_or_a_record_error(content: bytes) -> None:
    for text in (content, b"torpor-state=1\n" + content + b"\n"):
        try:
            state.parse(text, "state")
        except RecordError:
            pass


@given(st.dictionaries(st.sampled_from(["a", "b", "key"]), st.text(), max_size=3))
def test_a_record_keeps_every_value_but_line_breaks(fields: dict[str, str]) -> None:
    pairs = [(key, value.encode("utf-8", "replace").decode()) for key, value in fields.items()]
    text = record.serialize("test", pairs)
    back = record.parse(text, "test", "here")
    assert back == [(key, value.replace("\n", " ")) for key, value in pairs]


@pytest.mark.parametrize("name", ["web", "a", "my-web_1.2", "0", "x" * 64])
def test_a_name(name: str) -> None:
    assert Container(name).unit == f"torpor@{name}.service"


@pytest.mark.parametrize("name", ["", ".", "..", "-x", ".x", "a/b", "a b", "a\n", "ä", "x" * 65])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(TorporError):
        Container(name)


def test_many_make_the_same_directories_at_once(tmp_path: Path) -> None:
    def make(number: int) -> None:
        record.make_directory(f"{tmp_path}/{number // MANY}/one/two")

    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(make, range(100 * MANY)))


def test_a_directory_below_a_link_that_leads_nowhere_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        record.make_directory(f"{tmp_path}/link/below")


@pytest.mark.parametrize("frozen_s", [0.0, 0.098123, 1.000001, 12.5])
def test_a_time_is_read_as_it_was_written(container: Container, frozen_s: float) -> None:
    state.write(container, State(state.READY, since_s=1_795_000_000.012345, frozen_s=frozen_s))
    back = state.read(container)
    assert (back.since_s, back.frozen_s) == (1_795_000_000.012345, frozen_s)
