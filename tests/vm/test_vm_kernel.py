"""The virtual machine itself, and what its kernel has that torpor and CRIU use."""

import os
import subprocess

import pytest

from machine import CommandFailed

from .vm import Vm

CONTROLLERS = {"cpu", "cpuset", "io", "memory", "pids"}


def test_no_unit_fails_at_boot(vm: Vm) -> None:
    assert vm.run("systemctl", "is-system-running", check=False).stdout == "running\n"


def test_a_command_has_its_status_streams_and_environment(vm: Vm) -> None:
    script = 'read line; echo "${line} ${WORD}"; echo fault >&2; exit 7'
    done = vm.run("sh", "-c", script, input="in\n", env={"WORD": "a b"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in a b\n", "fault\n")
    with pytest.raises(CommandFailed, match=r"(?s)no-such-program.*status 127"):
        vm.run("no-such-program")


def test_a_command_that_takes_too_long_is_ended(vm: Vm) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        vm.run("sh", "-c", "sleep 12345 & wait", timeout=0.2)
    assert vm.run("pgrep", "-f", "sleep 1234[5]", check=False).returncode == 1


def test_a_large_file_comes_back_as_it_went(vm: Vm) -> None:
    text = "".join(f"line {number} …\n" for number in range(20_000))
    vm.write("/run/large/file", text, mode=0o600)
    assert vm.read("/run/large/file") == text
    assert vm.run("stat", "-c", "%a", "/run/large/file").stdout == "600\n"


def test_its_kernel_is_not_the_hosts(vm: Vm) -> None:
    assert vm.run("uname", "-v").stdout.strip() != os.uname().version


def test_every_controller_of_cgroup_v2_is_there(vm: Vm) -> None:
    assert set(vm.read("/sys/fs/cgroup/cgroup.controllers").split()) >= CONTROLLERS
    assert "cgroup2" in vm.run("stat", "-fc", "%T", "/sys/fs/cgroup").stdout


def test_criu_finds_all_that_it_can_use(vm: Vm) -> None:
    assert "Looks good." in vm.run("criu", "check", "--all").stdout


@pytest.mark.parametrize("feature", ["mem_dirty_track", "uffd-noncoop", "compat_cr"])
def test_criu_has(vm: Vm, feature: str) -> None:
    vm.run("criu", "check", "--feature", feature)


def test_doctor_has_nothing_to_say(vm: Vm) -> None:
    said = vm.run("torpor", "doctor").stdout
    assert {line.split()[0] for line in said.splitlines()} == {"ok"}, said
