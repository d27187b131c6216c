"""Children: found where the environment says nothing, bounded in time and in what they say."""

import os
import time
from pathlib import Path

import pytest

from torpor import process


def say(script: str, timeout_s: float = 20.0, **bounds: int) -> tuple[int, str]:
    reader, writer = os.pipe()
    child = process.spawn(["/bin/sh", "-c", script], stdout=writer)
    os.close(writer)
    return process.collect(child, reader, timeout_s, **bounds)


def test_a_program_is_found_without_a_path_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\necho $PATH\n")
    program.chmod(0o755)
    monkeypatch.delenv("PATH")
    monkeypatch.setattr(process, "PATH", f"{tmp_path}:/usr/bin:/bin")
    assert process.output(["only-here"]) == (0, f"{tmp_path}:/usr/bin:/bin\n")


def test_what_is_not_there_is_said() -> None:
    assert process.output(["no-such-program"]) == (
        127,
        "no-such-program: No such file or directory",
    )


def test_who_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    status, said = say(f"echo begun; sleep 1000 & echo $! >{pid}; wait", timeout_s=0.5)
    assert (status, said) == (-9, "begun\n")
    for _ in range(100):  # its new parent has yet to reap it
        if process.read_small(f"/proc/{pid.read_text().strip()}/stat").find(") S ") < 0:
            return
        time.sleep(0.05)
    raise AssertionError("it lives on")


def test_who_says_too_much_is_killed() -> None:
    status, said = say("while :; do echo nonsense; done", max_bytes=100_000)
    assert status == -9
    assert len(said) < 200_000
