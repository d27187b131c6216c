"""Waiting goes on for what moves, and ends for what does not."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from torpor import lock, patience, timespan
from torpor.errors import HungError
from torpor.patience import Patience, Stall


class Short(Patience):
    """Of a unit with a short timeout; systemd is not asked."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    @property
    def limit_s(self) -> float:
        return 0.1


def nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_S", 0.01)
    monkeypatch.setattr(patience, "_TICK_S", 0.01)


def test_what_moves_is_waited_for() -> None:
    moved = iter(range(1000))

    def work() -> str:
        time.sleep(0.5)
        return "done"

    assert patience.aside(work, nothing, Stall(Short()), lambda: next(moved)) == "done"


def test_what_does_not_move_is_given_up_and_its_time_counted() -> None:
    limits = Short()
    done = threading.Event()
    with pytest.raises(HungError):
        patience.aside(lambda: done.wait(60), nothing, Stall(limits), lambda: None)
    done.set()
    assert 0.1 < limits.spent_s < 5


def test_what_is_raised_aside_is_raised_here() -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file", "/there")

    with pytest.raises(FileNotFoundError, match="/there"):
        patience.aside(fail, nothing, Stall(Short()), lambda: None)


def test_a_grace_makes_it_wait_longer() -> None:
    stall = Stall(Short(), grace_s=60)
    stall.stalled(1)
    time.sleep(0.3)
    assert not stall.stalled(1)


@pytest.mark.parametrize(("timeout_s", "limit_s"), [(90, 60), (9, 6), (365 * 86400, 60)])
def test_a_part_of_the_units_timeout_is_left_for_an_orderly_end(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float, limit_s: float
) -> None:
    monkeypatch.setattr(timespan, "of_unit", lambda *_: float(timeout_s))
    assert Patience(None, patience.STOPPING).limit_s == limit_s  # type: ignore[arg-type]


def test_who_waited_in_vain_waits_less_for_the_next_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timespan, "of_unit", lambda *_: 90.0)
    limits = Patience(None, patience.STOPPING)  # type: ignore[arg-type]
    limits.spent_s = 45.0
    assert limits.limit_s == 15
    limits.spent_s = 90.0
    assert 0 < limits.limit_s < 1


def test_a_lock_is_waited_for_no_longer_than_was_said(tmp_path: Path) -> None:
    held, wanted = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(held, fcntl.LOCK_EX)
    began_s = time.monotonic()
    assert not lock.acquire(wanted, 0.2)
    assert 0.1 < time.monotonic() - began_s < 5
    threading.Timer(0.1, os.close, [held]).start()
    assert lock.acquire(wanted, 60)
    os.close(wanted)
