"""How many containers are dumped or restored at once."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from torpor import turns
from torpor.turns import Turn

HELD_S = 0.1


@pytest.fixture(autouse=True)
def two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "RUN_ROOT", str(tmp_path))
    monkeypatch.setattr(turns, "most", lambda: 2)


def nothing() -> None:
    pass


def patient() -> float:
    return 30.0


def take(directory: str) -> None:
    """Say of each moment when it began and ended."""
    with Turn(patient, nothing):
        began_s = time.monotonic()
        time.sleep(HELD_S)
        Path(directory, str(os.getpid())).write_text(f"{began_s} {time.monotonic()}")


def test_no_more_than_most_are_at_it_and_all_get_their_turn(tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.mkdir()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=take, args=(str(said),)) for _ in range(7)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    spans = [tuple(map(float, path.read_text().split())) for path in said.iterdir()]
    assert len(spans) == 7
    for began_s, _ in spans:
        assert sum(first <= began_s < last for first, last in spans) <= 2


def test_who_waits_too_long_goes_on_without_one() -> None:
    with Turn(patient, nothing), Turn(patient, nothing):
        began_s = time.monotonic()
        with Turn(lambda: 0.1, nothing):
            assert 0.1 <= time.monotonic() - began_s < 10
    with Turn(lambda: pytest.fail("it need not wait"), nothing):
        pass


def test_the_turn_of_who_was_killed_is_anothers() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold() -> None:
        with Turn(patient, nothing), Turn(patient, nothing):
            ready.set()
            time.sleep(60)

    child = context.Process(target=hold)
    child.start()
    assert ready.wait(10)
    child.kill()
    child.join()
    with Turn(lambda: pytest.fail("it need not wait"), nothing):
        pass


def test_what_is_raised_while_it_waits_ends_that() -> None:
    def refuse() -> None:
        raise InterruptedError

    with Turn(patient, nothing), Turn(patient, nothing), pytest.raises(InterruptedError):
        Turn(patient, refuse)
