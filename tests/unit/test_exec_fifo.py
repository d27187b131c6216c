"""A created container's init, which waits at its FIFO."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from torpor import container as containers
from torpor import exec_fifo
from torpor.container import Container
from torpor.errors import RuntimeFailedError


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(containers, "RUNC_ROOT", str(tmp_path))
    path = tmp_path / "web" / "exec.fifo"
    path.parent.mkdir()
    os.mkfifo(path)
    return path


def _init(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", script])


def test_its_program_begins_when_the_fifo_is_read_which_is_gone_then(fifo: Path) -> None:
    with _init(f"printf 0 >{fifo}; exit 7") as init:
        exec_fifo.release(Container("web"), init.pid, 10)
        assert init.wait() == 7
    assert not fifo.exists()


def test_one_that_has_not_come_to_its_fifo_yet_is_waited_for(fifo: Path) -> None:
    with _init(f"sleep 0.2; printf 0 >{fifo}") as init:
        began_s = time.monotonic()
        exec_fifo.release(Container("web"), init.pid, 10)
        assert time.monotonic() - began_s > 0.1


@pytest.mark.parametrize("script", ["exit 1", "sleep 0.1; exit 1", ": >{fifo}"])
def test_one_that_ends_before_is_no_start(fifo: Path, script: str) -> None:
    with (
        _init(script.format(fifo=fifo)) as init,
        pytest.raises(RuntimeFailedError, match="ended before its program began"),
    ):
        exec_fifo.release(Container("web"), init.pid, 10)
    assert fifo.exists()


def test_one_that_never_begins_is_not_waited_for_for_ever(fifo: Path) -> None:
    with _init("exec sleep 60") as init:
        with pytest.raises(RuntimeFailedError, match="did not begin within"):
            exec_fifo.release(Container("web"), init.pid, 0.1)
        init.kill()


def test_a_link_in_the_place_of_the_fifo_is_not_followed(fifo: Path) -> None:
    fifo.unlink()
    fifo.symlink_to("/etc/hostname")
    with _init("exec sleep 60") as init:
        with pytest.raises(OSError, match="symbolic links"):
            exec_fifo.release(Container("web"), init.pid, 10)
        init.kill()
