"""A record that cannot be written says which and what it needed, and leaves nothing half."""

import errno
import os
from pathlib import Path

import pytest

from torpor import record


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_with_path_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "state")
    record.write_durably(path, b"before")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"needed, \d+ are free") as caught:
        record.write_durably(path, b"after")
    assert "5 bytes are needed" in str(caught.value)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
    assert os.listdir(tmp_path) == ["state"]
    assert Path(path).read_bytes() == b"before"


def test_an_error_without_a_name_gets_one() -> None:
    assert str(record.naming("/there", OSError(errno.EIO, "Input/output error"))) == (
        "[Errno 5] Input/output error: '/there'"
    )
