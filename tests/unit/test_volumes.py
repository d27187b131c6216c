"""A volume is there whole or not at all, and what fills it comes from inside the rootfs."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import atomic_directory, overlay, volumes
from torpor.container import Container
from torpor.errors import TorporError
from torpor.values import WrongError
from torpor.yaml_tree import Scalar, Sequence

ME = (os.geteuid(), os.getegid())


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "data/sub").mkdir(parents=True)
    (root / "data/file").write_text("content")
    return root


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return tmp_path / "volumes/data"


def prepare(volume: Path, rootfs: Path, destination: str = "/data") -> None:
    volumes.prepare(str(volume), ME, str(rootfs), destination)


def beside(volume: Path) -> list[str]:
    return os.listdir(volume.parent)


def test_a_new_volume_holds_what_the_image_has_there(rootfs: Path, volume: Path) -> None:
    data = rootfs / "data"
    (data / "link").symlink_to("/etc/shadow")
    os.link(data / "file", data / "sub/other-name")
    os.mkfifo(data / "fifo")
    os.utime(data / "file", (1, 1))
    data.chmod(0o1770)
    prepare(volume, rootfs)
    assert stat.S_IMODE(volume.stat().st_mode) == 0o1770
    assert (volume / "file").read_text() == "content"
    assert (volume / "file").stat().st_mtime == 1
    assert os.path.samefile(volume / "file", volume / "sub/other-name")
    assert os.readlink(volume / "link") == "/etc/shadow"
    assert stat.S_ISFIFO((volume / "fifo").lstat().st_mode)


def test_a_volume_that_is_there_is_never_filled_again(rootfs: Path, volume: Path) -> None:
    prepare(volume, rootfs)
    (volume / "file").unlink()
    prepare(volume, rootfs)
    assert not (volume / "file").exists()


def test_a_volume_at_a_place_that_the_image_lacks_is_empty_and_private(
    rootfs: Path, volume: Path
) -> None:
    prepare(volume, rootfs, "/nowhere/at/all")
    assert os.listdir(volume) == []
    assert stat.S_IMODE(volume.stat().st_mode) == 0o700


def test_a_link_to_the_hosts_files_fills_nothing(
    rootfs: Path, volume: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("the host's")
    (rootfs / "evil").symlink_to(tmp_path / "secret")
    (rootfs / "up").symlink_to("../secret")
    for place in ("/evil", "/up", "/data/../../secret"):
        prepare(volume, rootfs, place)
        assert os.listdir(volume) == []
        volume.rmdir()


def test_a_link_inside_the_rootfs_is_followed(rootfs: Path, volume: Path) -> None:
    (rootfs / "var").symlink_to("/data")
    prepare(volume, rootfs, "/var")
    assert (volume / "file").read_text() == "content"


def test_a_file_at_the_place_of_a_volume_is_refused(rootfs: Path, volume: Path) -> None:
    with pytest.raises(TorporError, match="Not a directory"):
        prepare(volume, rootfs, "/data/file")
    assert beside(volume) == []


def test_a_fill_that_fails_leaves_nothing(volume: Path) -> None:
    def fill(new: str) -> None:
        Path(new, "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(TorporError, match="No space left on device"):
        atomic_directory.make(str(volume), fill)
    assert beside(volume) == []


def test_what_a_cut_off_fill_left_is_removed_by_the_next(rootfs: Path, volume: Path) -> None:
    (volume.parent / ".data-01234567.new/half").mkdir(parents=True)
    (volume.parent / "other").mkdir()
    prepare(volume, rootfs)
    assert sorted(beside(volume)) == ["data", "other"]


def test_a_name_as_long_as_it_may_be_can_be_made(tmp_path: Path) -> None:
    name = "x" * atomic_directory.NAME_MAX_BYTES
    assert atomic_directory.make(f"{tmp_path}/{name}", lambda new: None)
    assert not atomic_directory.make(f"{tmp_path}/{name}", lambda new: None)


def test_two_containers_never_share_a_volume_of_their_own() -> None:
    places = ["/data", "/data/a", "/data-a", "/data\\x2da", "/.data", "/x2edata", "/d\u00e4ta"]
    paths = {volumes.own(Container(name), place) for name in ("a", "b") for place in places}
    assert len(paths) == 2 * len(places)


@pytest.mark.parametrize("name", ["", ".x", "..", "a/b", "/a", "-a", "a" * 65, "a\n"])
def test_a_volume_name_cannot_be_a_path(name: str) -> None:
    with pytest.raises(WrongError):
        volumes.named(name)


def test_a_named_volume_lies_beside_all_containers() -> None:
    path = volumes.named("db")
    assert path.startswith(f"{volumes.STORE}/")
    assert not path.startswith(Container("db").state_dir)


def test_volumes_are_absolute_places_each_once() -> None:
    def parsed(*places: str) -> tuple[str, ...]:
        return volumes.parse_volumes(Sequence(1, [Scalar(1, place, False) for place in places]))

    assert parsed("/data", "/data/", "/var//lib") == ("/data", "/var/lib")
    for wrong in ("/", "data", "/a/../b", "/" + "x" * 250):
        with pytest.raises(WrongError):
            parsed(wrong)


def test_id_ranges_are_those_that_mount_takes() -> None:
    assert overlay.mapping(["0:5:1", "1:9:2"], ["0:7:3"]) == "u:0:5:1 u:1:9:2 g:0:7:3"


@cases(500)
@given(st.text(max_size=40).map("/".__add__))
def test_any_place_is_a_volume_of_one_file_name_or_wrong(text: str) -> None:
    try:
        (place,) = volumes.parse_volumes(Scalar(1, text, False))
    except WrongError:
        return
    name = volumes.escape(place)
    assert "/" not in name and not name.startswith(".") and name.isascii()
    assert len(name) <= atomic_directory.NAME_MAX_BYTES


@pytest.mark.parametrize("place", ["/data", "/data/a-b", "/.x/.y", "/d\u00e4", "/a b\\c"])
def test_a_place_is_escaped_as_systemd_does(place: str) -> None:
    try:
        done = subprocess.run(
            ["systemd-escape", "--path", place], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("no systemd-escape here")
    assert volumes.escape(place) == done.stdout.rstrip("\n")
