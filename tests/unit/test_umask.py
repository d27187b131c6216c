"""What is made for others can be seen by them, and what is private is, whatever the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor import inroot, process, record, umask
from torpor.umask import Umask


@pytest.fixture(params=[0o077, 0o022, 0])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_places_in_a_root_file_system_are_for_everybody(tmp_path: Path, mask: int) -> None:
    inroot.make_file(str(tmp_path), "/etc/deep/file", b"content")
    assert mode(tmp_path / "etc") == mode(tmp_path / "etc/deep") == 0o755
    assert mode(tmp_path / "etc/deep/file") == 0o644
    assert os.umask(mask) == mask


def test_a_directory_has_the_mode_that_it_is_to_have(tmp_path: Path, mask: int) -> None:
    record.make_directory(f"{tmp_path}/open/below", 0o711)
    record.make_directory(f"{tmp_path}/shut/below")
    assert mode(tmp_path / "open") == mode(tmp_path / "open/below") == 0o711
    assert mode(tmp_path / "shut") == mode(tmp_path / "shut/below") == 0o700


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path, mask: int) -> None:
    (tmp_path / "there").mkdir(0o700)
    record.make_directory(f"{tmp_path}/there", 0o711)
    assert mode(tmp_path / "there") == 0o700


@pytest.mark.parametrize(("wanted", "made"), [(umask.PRIVATE, 0o600), (umask.PUBLIC, 0o644)])
def test_a_program_makes_files_with_the_mask_that_it_is_given(
    tmp_path: Path, mask: int, wanted: int, made: int
) -> None:
    assert process.spawn(["touch", f"{tmp_path}/file"], umask=wanted).wait() == 0
    assert mode(tmp_path / "file") == made
    assert os.umask(mask) == mask


def test_the_mask_is_as_it_was_after_a_fault(mask: int) -> None:
    with pytest.raises(OSError, match="fault"), Umask(0o027):
        raise OSError("fault")
    assert os.umask(mask) == mask


def test_a_program_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lure").write_text("#!/bin/sh\n")
    (tmp_path / "lure").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".::relative/..:/usr/bin")
    assert process.find("lure") == ""
    with pytest.raises(FileNotFoundError, match="lure"):
        process.spawn(["lure"])
