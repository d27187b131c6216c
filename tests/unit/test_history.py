"""A container's history is for people: it costs nobody anything, and what was torn is survived."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from torpor import history, state, transitions
from torpor.container import Container
from torpor.state import State

BOUND = 600 << 10  # of both files


@pytest.fixture
def container(tmp_path: Path) -> Container:
    found = Container("web")
    found.state_dir = str(tmp_path)
    return found


def enter(container: Container, name: str, reason: str = "why", **values: object) -> None:
    entered = State(name, reason=reason, boot="b", **values)  # type: ignore[arg-type]
    size = 4096 if name == state.READY else 0
    state.write(container, entered, size_bytes=size)


def reasons(container: Container) -> list[str]:
    return [one.reason for one in transitions.read(container)[0]]


def test_each_state_is_there_with_its_figures(container: Container) -> None:
    enter(container, state.DUMPING, "systemctl stop", generation=3, since_s=100.0)
    enter(container, state.COMMITTED, "systemctl stop", generation=3, since_s=100.5)
    enter(container, state.READY, "a = b reason=c", generation=3, since_s=101.25, frozen_s=0.5)
    enter(container, state.RESTORING, "again", generation=3, since_s=200.0, attempt=1)
    enter(container, state.RUNNING, "woke", generation=3, since_s=200.25)
    found, faults = transitions.read(container)
    assert not faults
    assert [one.state for one in found] == [
        *(state.DUMPING, state.COMMITTED, state.READY, state.RESTORING, state.RUNNING)
    ]
    assert [one.took_s for one in found] == [None, None, 1.25, None, 0.25]
    ready = found[2]
    assert (ready.frozen_s, ready.size_bytes, ready.generation) == (0.5, 4096, 3)
    assert ready.reason == "a = b reason=c"


def test_what_was_not_seen_to_begin_has_no_duration(container: Container) -> None:
    enter(container, state.READY, generation=1, since_s=10.0)
    enter(container, state.DUMPING, generation=2, since_s=20.0)
    enter(container, state.READY, generation=3, since_s=30.0)
    enter(container, state.DUMPING, generation=4, since_s=50.0)
    enter(container, state.READY, generation=4, since_s=40.0)  # the clock was set back
    assert [one.took_s for one in transitions.read(container)[0]] == [None] * 5


@pytest.mark.parametrize("torn", range(1, 60))
def test_a_line_that_a_power_cut_has_torn_spoils_no_other(container: Container, torn: int) -> None:
    enter(container, state.RUNNING, "before")
    enter(container, state.EXITED, "this is torn from its end on")
    os.truncate(container.history_path, os.path.getsize(container.history_path) - torn)
    enter(container, state.RUNNING, "after")
    assert reasons(container) == ["before", "after"]
    assert "1 lines are not whole" in transitions.read(container)[1][0]


def test_a_line_whose_content_never_came_to_the_disk(container: Container) -> None:
    enter(container, state.RUNNING, "before")
    with open(container.history_path, "ab") as file:
        file.write(bytes(200))
    enter(container, state.RUNNING, "after")
    assert reasons(container) == ["before", "after"]


@pytest.mark.parametrize("torn", [1, 5, 40])
def test_the_last_line_may_be_torn_when_it_is_read(container: Container, torn: int) -> None:
    enter(container, state.RUNNING, "before")
    enter(container, state.EXITED, "this is torn")
    os.truncate(container.history_path, os.path.getsize(container.history_path) - torn)
    assert reasons(container) == ["before"]


def test_it_does_not_grow_without_bound(container: Container) -> None:
    longest = "x" * 5000
    for number in range(1000):
        history.append(container, [("number", str(number))], longest)
    names = sorted(os.listdir(container.state_dir))
    assert names == ["history", "history.1"]
    size = sum(os.path.getsize(f"{container.state_dir}/{name}") for name in names)
    assert (200 << 10) < size < BOUND
    lines, faults = history.lines(container)
    assert not faults and lines[-2].startswith("number=999 ")


def test_what_lies_there_instead_harms_nobody(container: Container, tmp_path: Path) -> None:
    path = Path(container.history_path)
    makers: tuple[Callable[[], None], ...] = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(tmp_path / "elsewhere"),
        lambda: os.mknod(path, stat.S_IFSOCK | 0o600),
    )
    for make in makers:
        make()
        enter(container, state.RUNNING)
        found, faults = transitions.read(container)
        assert state.read(container).name == state.RUNNING and not found and len(faults) == 1
        path.rmdir() if path.is_dir() else path.unlink()
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_large_is_read_from_its_end(container: Container) -> None:
    os.truncate(os.open(container.history_path, os.O_CREAT | os.O_WRONLY), 1 << 40)
    enter(container, state.RUNNING, "after")
    assert reasons(container) == ["after"]


def test_a_disk_that_is_full_or_read_only_fails_nothing(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    history.append(container, [("a", "b")], "why")


def test_hostile_reasons_are_one_line(container: Container) -> None:
    enter(container, state.RUNNING, "two\nlines \0 and \x1b[31m")
    enter(container, state.RUNNING, "after")
    assert reasons(container) == ["two lines   and \x1b[31m", "after"]
