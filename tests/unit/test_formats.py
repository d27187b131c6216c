"""What an older torpor has written is understood, and what a newer one has is left alone.

formats/N holds the state directory of a container that slept, without its images, as torpor wrote
it when N was the format of its records: it had a bridge, a volume, an image, limits and a snapshot,
and was rolled back to that.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from torpor import (
    addressing,
    capture,
    cni,
    images,
    last_rendering,
    lease,
    mount_flags,
    overlay,
    payload,
    preparation,
    record,
    rollback,
    snapshots,
    state,
    transitions,
)
from torpor.commands import discard, start, status
from torpor.container import Container
from torpor.errors import NewerFormatError

FORMATS = Path(__file__).parent / "formats"
PACKAGING = Path(__file__).parents[2] / "packaging/debian"


@pytest.fixture(params=sorted(path.name for path in FORMATS.iterdir()))
def slept(request: pytest.FixtureRequest, tmp_path: Path) -> Container:
    """A container that fell asleep when its format was the newest."""
    shutil.copytree(FORMATS / request.param / "web", tmp_path / "web")
    container = Container("web")
    container.state_dir, container.run_dir = str(tmp_path / "web"), str(tmp_path / "run")
    return container


def test_there_is_a_sample_of_each_format() -> None:
    numbers = sorted(int(path.name) for path in FORMATS.iterdir())
    assert numbers == list(range(1, record.FORMAT + 1))


def test_the_package_knows_the_format_that_the_code_knows() -> None:
    assert f"\nFORMAT={record.FORMAT}\n" in (PACKAGING / "torpor.preinst").read_text()


def test_the_state_of_an_older_torpor_wakes(slept: Container) -> None:
    found = state.read(slept)
    assert (found.name, found.generation, found.attempt) == (state.READY, 4, 0)
    assert state.plan(found) == state.WAKE
    assert found.reason == "rolled back to snapshot 1"
    generation = images.Generation(slept, found.generation)
    manifest = images.read_manifest(slept, generation)
    assert manifest.facts["inputs"] == found.inputs
    assert manifest.facts["rootfs"] == found.rootfs
    assert len(manifest.files) == 33 and manifest.size_bytes > 100_000
    plan = preparation.read(generation.plan)
    assert preparation.first(plan, "hostname") == "web"
    assert preparation.first(plan, "volume") == "data"
    mount_flags.Saved(generation.mounts)


def test_what_an_older_torpor_rendered_is_understood(slept: Container) -> None:
    inputs = last_rendering.load(slept)
    assert inputs is not None
    assert inputs.keep == 2 and inputs.checkpoint_on == {"stop", "shutdown"}
    assert dict(inputs.limits) == {"MemoryMax": "512M", "TasksMax": "50"}
    assert inputs.digest == state.read(slept).inputs


def test_a_lease_and_a_storage_of_an_older_torpor_hold(slept: Container) -> None:
    where = f"{slept.state_dir}/network"
    text = record.read_bytes(where)
    assert text is not None
    assert lease.parse(text, where).address == "10.99.0.150/24"
    assert overlay._recorded(f"{slept.state_dir}/storage") == ("15385476:1677885723",) * 2


def test_a_snapshot_and_a_rollback_of_an_older_torpor_are_found(slept: Container) -> None:
    assert [one.number for one in snapshots.known(slept)] == [1]
    places = capture.read(snapshots.Snapshot(slept, 1).places)
    assert [place.kind for place in places] == ["storage", "volume"]
    pending = rollback._load(slept)
    assert pending is not None and (pending.number, pending.snapshot) == (4, 1)


def test_the_history_of_an_older_torpor_is_read(slept: Container) -> None:
    found, faults = transitions.read(slept)
    assert faults == [] and len(found) > 10
    assert found[-1].state == state.READY


NEWER_FORMAT = f"written by a newer torpor, in format {record.FORMAT + 1}; "
NEWER = (
    start._read_state,
    lambda container: payload.record_end(container, "it ended"),
    discard.forget,
    rollback._load,
    snapshots.known,
    last_rendering.load,
    lambda container: images.read_manifest(container, images.Generation(container, 4)),
)


@pytest.mark.parametrize("reads", NEWER)
def test_what_a_newer_torpor_wrote_is_refused_and_left_as_it_is(
    slept: Container, reads: Callable[[Container], object]
) -> None:
    top = Path(slept.state_dir)
    for path in top.rglob("*"):
        if path.is_file() and path.name != "history":
            text = path.read_bytes().replace(b"=1\n", b"=%d\n" % (record.FORMAT + 1), 1)
            if path.name == "manifest":
                body = text.rpartition(b"check=")[0]
                text = body + f"check={xxhash.xxh3_128_hexdigest(body)}\n".encode()
            path.write_bytes(text)
    before = {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}
    with pytest.raises(NewerFormatError, match=NEWER_FORMAT):
        reads(slept)
    assert {path: path.read_bytes() for path in top.rglob("*") if path.is_file()} == before


def test_a_newer_neighbour_says_nothing_about_the_images_of_another(
    slept: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STATE_ROOT", str(tmp_path))
    monkeypatch.setattr(lease, "FOREIGN_ROOT", str(tmp_path / "foreign"))
    neighbour = tmp_path / "newer"
    neighbour.mkdir()
    newer = record.FORMAT + 1
    (neighbour / "network").write_bytes(b"torpor-lease=%d\nkind=bridge\n" % newer)
    text = record.read_bytes(f"{slept.state_dir}/network")
    assert text is not None
    saved = lease.parse(text, "network")
    saved.boot = "another"
    with pytest.raises(NewerFormatError, match=NEWER_FORMAT), lease.Table() as table:
        addressing.give_again("web", saved, table)


def test_a_newer_snapshot_is_none_in_a_table(
    slept: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(container: Container) -> None:
        raise NewerFormatError(f"{container.name}: newer")

    monkeypatch.setattr(snapshots, "known", newer)
    assert status._snapshots(slept) == []


def test_a_call_of_cni_plugins_has_the_format_too(tmp_path: Path) -> None:
    call = cni.Call("net", "1.0.0", [{"type": "bridge"}], "", "eth0", None)
    text = cni.serialize(call)
    assert cni.parse(text, "here") == call
    assert cni.parse(text.replace(b'"format": 1, ', b""), "here") == call
    newer = text.replace(b'"format": 1', b'"format": %d' % (record.FORMAT + 1))
    with pytest.raises(NewerFormatError, match=NEWER_FORMAT):
        cni.parse(newer, "here")
