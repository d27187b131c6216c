"""Which snapshots there are, which are kept, and how often one answers a crash."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor import capture, images, snapshots
from torpor.capture import Place
from torpor.container import Container
from torpor.errors import ImageError, RecordError, TorporError
from torpor.images import Manifest
from torpor.snapshots import INTERVAL_S, Snapshot

NOW_S = 1_795_000_000.0


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    monkeypatch.setattr("torpor.container.STATE_ROOT", str(tmp_path))
    (tmp_path / "web").mkdir()
    return Container("web")


def make(container: Container, number: int, files_bytes: int = 7) -> Snapshot:
    snapshot = Snapshot(container, number)
    snapshot.make()
    facts = {"name": "web", "generation": str(number), "taken": f"{NOW_S + number:.6f}"}
    facts[snapshots.FILES_BYTES] = str(files_bytes)
    images.vouch(snapshot, Manifest(facts, {"config.json": ("0" * 32, 3)}))
    return snapshot


@pytest.mark.parametrize(
    ("sizes", "keep", "max_bytes", "going"),
    [
        ([], 1, 0, []),
        ([(1, 5)], 1, 1, []),  # the newest, whatever it takes
        ([(1, 5), (2, 5), (3, 5)], 3, 0, []),
        ([(1, 5), (2, 5), (3, 5)], 2, 0, [1]),
        ([(1, 5), (2, 5), (3, 5)], 3, 10, [1]),
        ([(1, 5), (2, 5), (3, 5)], 3, 9, [1, 2]),
        ([(1, 5), (2, 5), (3, 50)], 3, 9, [1, 2]),
        ([(1, 100), (2, 5), (3, 5)], 3, 10, [1]),
    ],
)
def test_what_goes(
    sizes: list[tuple[int, int]], keep: int, max_bytes: int, going: list[int]
) -> None:
    assert snapshots.surplus(sizes, keep, max_bytes) == going


@given(
    st.lists(st.integers(0, 100), max_size=8),
    st.integers(1, 10),
    st.integers(0, 300),
)
def test_what_stays_is_the_newest_and_within_the_limits(
    sizes: list[int], keep: int, max_bytes: int
) -> None:
    numbered = [*enumerate(sizes, 1)]
    going = snapshots.surplus(numbered, keep, max_bytes)
    assert going == [number for number, _ in numbered[: len(going)]]
    staying = sizes[len(going) :]
    assert len(staying) == 1 or len(staying) <= keep
    assert len(staying) <= 1 or not max_bytes or sum(staying) <= max_bytes
    assert bool(staying) == bool(sizes)


def test_a_number_is_used_once_for_generations_and_snapshots(container: Container) -> None:
    make(container, 4)
    assert images.next_number(container, 2) == 5
    images.next_generation(container, 0).make()
    assert images.next_number(container, 2) == 6


def test_the_oldest_go_and_those_without_a_manifest_are_none(container: Container) -> None:
    for number in (2, 3, 5):
        make(container, number)
    half = Snapshot(container, 7)
    half.make()
    assert [one.number for one in snapshots.known(container)] == [2, 3, 5]
    assert [one.size_bytes for one in snapshots.known(container)] == [10, 10, 10]
    assert snapshots.void_surplus(container, 2, 0) == [2]
    assert [one.number for one in snapshots.known(container)] == [3, 5]
    snapshots.sweep(container)
    assert images.numbers(container.snapshots_dir) == [3, 5]


def test_another_containers_snapshot_is_none(container: Container) -> None:
    make(container, 2)
    Path(container.snapshot_dir(2)).rename(Path(container.snapshot_dir(3)))
    assert snapshots.known(container) == []
    with pytest.raises(ImageError):
        snapshots.load(container, 3)


def test_its_places_are_read_back_and_nothing_else_is(container: Container) -> None:
    snapshot = make(container, 2)
    places = [Place(capture.STORAGE, "/a b/storage"), Place(capture.VOLUME, "/v=1")]
    capture.write(snapshot.places, places)
    assert capture.read(snapshot.places) == places
    with pytest.raises(TorporError):
        capture.write(snapshot.places, [Place(capture.ROOTFS, "/srv/a\nvolume=/etc")])
    for text in (b"", b"torpor-places=1\nhome=/root\n", b"torpor-places=1\nvolume\n"):
        Path(snapshot.places).write_bytes(text)
        with pytest.raises(RecordError):
            capture.read(snapshot.places)


def test_a_snapshot_answers_three_crashes_within_an_hour(container: Container) -> None:
    for past_s in range(snapshots.BURST):
        assert snapshots.may_answer(snapshots.answers(container), 4, NOW_S + past_s)
        snapshots.note_answer(container, 4, NOW_S + past_s)
    assert not snapshots.may_answer(snapshots.answers(container), 4, NOW_S + 10)
    assert snapshots.may_answer(snapshots.answers(container), 5, NOW_S + 10)
    assert snapshots.may_answer(snapshots.answers(container), 4, NOW_S + INTERVAL_S)


def test_a_clock_that_was_set_back_does_not_forget_an_answer(container: Container) -> None:
    for _ in range(snapshots.BURST):
        snapshots.note_answer(container, 4, NOW_S)
    assert not snapshots.may_answer(snapshots.answers(container), 4, NOW_S - 10 * INTERVAL_S)


def test_a_record_of_answers_that_is_none_counts_as_none(container: Container) -> None:
    snapshots.note_answer(container, 4, NOW_S)
    Path(container.rollbacks_path).write_bytes(b"torpor-rollbacks=1\nfour=now\n")
    assert snapshots.answers(container) == []
