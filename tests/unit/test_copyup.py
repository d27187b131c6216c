"""A directory of a hostile image is copied without following it anywhere, and within bounds."""

import os
import stat
from pathlib import Path

import pytest

from torpor import copyup
from torpor.copyup import CopyUp
from torpor.errors import TorporError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("the host's")
    (tmp_path / "image").mkdir()
    (tmp_path / "tmpfs").mkdir()
    return tmp_path / "image"


def copy(image: Path) -> Path:
    source, target = (os.open(path, os.O_PATH) for path in (image, image.parent / "tmpfs"))
    try:
        CopyUp("/tmp").run(source, target)
    finally:
        os.close(source)
        os.close(target)
    return image.parent / "tmpfs"


def test_files_and_directories_keep_content_mode_and_time(image: Path) -> None:
    (image / "a/b").mkdir(parents=True)
    (image / "a/b/file").write_bytes(b"x" * 3_000_000)
    (image / "a/b/file").chmod(0o4751)
    (image / "a").chmod(0o1777)
    os.utime(image / "a/b/file", ns=(1, 2))
    os.utime(image / "a", ns=(3, 4))
    made = copy(image)
    assert (made / "a/b/file").read_bytes() == b"x" * 3_000_000
    assert stat.S_IMODE((made / "a/b/file").stat().st_mode) == 0o4751
    assert stat.S_IMODE((made / "a").stat().st_mode) == 0o1777
    assert (made / "a/b/file").stat().st_mtime_ns == 2
    assert (made / "a").stat().st_mtime_ns == 4


@pytest.mark.parametrize("target", ["../secret", "{top}/secret", "{top}", "nowhere"])
def test_a_link_stays_a_link(image: Path, target: str) -> None:
    target = target.format(top=image.parent)
    (image / "link").symlink_to(target)
    assert os.readlink(copy(image) / "link") == target


def test_a_fifo_is_made_and_not_opened(image: Path) -> None:
    os.mkfifo(image / "fifo")
    assert (copy(image) / "fifo").is_fifo()


def test_a_socket_is_left_out(image: Path) -> None:
    os.mknod(image / "socket", stat.S_IFSOCK | 0o666)
    assert os.listdir(copy(image)) == []


def test_names_that_are_no_text_are_copied(image: Path) -> None:
    name = b"\xff\xfe\n"
    with open(os.path.join(os.fsencode(image), name), "w") as file:
        file.write("content")
    assert os.listdir(os.fsencode(copy(image))) == [name]


def test_a_huge_file_is_refused_before_it_is_copied(image: Path) -> None:
    with (image / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TorporError, match="/tmp of the image holds more than 256 MiB"):
        copy(image)
    assert (image.parent / "tmpfs/sparse").stat().st_size <= copyup.LIMIT_BYTES


def test_too_many_files_are_refused(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copyup, "LIMIT_ENTRIES", 3)
    for number in range(4):
        (image / str(number)).touch()
    with pytest.raises(TorporError, match="more than 3 files"):
        copy(image)


def test_directories_too_deep_are_refused(image: Path) -> None:
    before = os.listdir("/proc/self/fd")
    (image / "/".join(["d"] * (copyup.LIMIT_DEPTH + 1))).mkdir(parents=True)
    with pytest.raises(TorporError, match="more than 64 levels"):
        copy(image)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_cannot_be_read_ends_the_copy(image: Path) -> None:
    (image / "file").touch()
    (image.parent / "tmpfs/file").touch()
    with pytest.raises(FileExistsError):
        copy(image)


@pytest.mark.parametrize("was", ["file", "directory"])
def test_what_becomes_a_link_in_between_is_not_followed(
    image: Path, monkeypatch: pytest.MonkeyPatch, was: str
) -> None:
    there = image / "there"
    there.mkdir() if was == "directory" else there.touch()
    look = os.stat

    def look_and_swap(name: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        status = look(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        there.rmdir() if was == "directory" else there.unlink()
        there.symlink_to(image.parent / ("secret" if was == "file" else "."))
        return status

    monkeypatch.setattr(os, "stat", look_and_swap)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        copy(image)
    monkeypatch.undo()
    assert os.listdir(image.parent / "tmpfs") == []
