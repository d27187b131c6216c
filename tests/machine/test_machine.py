"""The test machine itself: what the other tests rely on."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import guest
import image
from cgroups import hierarchies
from machine import CommandFailed, Machine

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
PATIENCE_S = 20.0

# A machine that says when it is up, and then stays until it is killed.
STAYING = "import sys, machine\nwith machine.Machine() as m:\n print(m.name, flush=True)\n input()"


def traces(name: str) -> set[str]:
    """Whatever of a machine can be seen on the host: processes, mounts, cgroups, files."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            groups = (process / "cgroup").read_text()
        except OSError:
            continue
        # A zombie has no command line; it is gone but for its parent's notice.
        if command and name in command + groups:
            found.add(f"process {process.name}: {command}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found |= {f"mount {line}" for line in mounts if name in line}
    for root in (*hierarchies(), Path("/run/systemd/nspawn"), Path("/run/systemd/transient")):
        found |= {str(path) for path in root.glob(f"**/{name}*")}
    return found | {str(path) for path in Path("/var/tmp").glob(f"{name}*")}


def left_of(name: str) -> set[str]:
    """What is left of a machine once its keeper has had time to clean up."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := traces(name)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def nspawn_lock(machine: Machine) -> Path:
    """The lock that systemd-nspawn takes on the root's inode."""
    root = machine.root.stat()
    return Path(f"/run/systemd/nspawn/locks/inode-{root.st_dev}:{root.st_ino}")


def boot_id(machine: Machine) -> str:
    return machine.read("/proc/sys/kernel/random/boot_id")


def staying_machine() -> tuple["subprocess.Popen[str]", str]:
    """A process that has booted a machine, and the machine's name."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", STAYING],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def test_no_unit_fails_at_boot(machine: Machine) -> None:
    assert machine.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"


def test_it_has_a_cgroup_of_its_own_in_every_hierarchy(machine: Machine) -> None:
    groups = Path(f"/proc/{machine.leader}/cgroup").read_text().splitlines()
    assert [group for group in groups if machine.name not in group] == []


def test_it_sees_the_guest_and_cannot_change_it(machine: Machine) -> None:
    assert machine.read(f"{guest.PLACE}/etc/machine-id") == ""
    with pytest.raises(CommandFailed, match="Read-only file system"):
        machine.write(f"{guest.PLACE}/etc/machine-id", "1")


def test_a_command_has_its_status_streams_and_environment(machine: Machine) -> None:
    script = 'read line; echo "${line} ${WORD}"; echo fault >&2; exit 7'
    done = machine.run("sh", "-c", script, input="in\n", env={"WORD": "a b"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in a b\n", "fault\n")


def test_a_failed_command_says_all_about_it(machine: Machine) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)sh -c.*status 3.*stdout: one.*stderr: two"):
        machine.run("sh", "-c", "echo one; echo two >&2; exit 3")


def test_a_command_that_takes_too_long_is_ended(machine: Machine) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        machine.run("sleep", "12345", timeout=0.5)
    deadline = time.monotonic() + PATIENCE_S
    while machine.run("pgrep", "-f", "sleep 1234[5]", check=False).returncode == 0:
        assert time.monotonic() < deadline


def test_files_follow_symbolic_links_of_the_machine(machine: Machine) -> None:
    machine.run("mkdir", "/run/target")
    machine.run("ln", "-sfn", "/run/target", "/var/tmp/link")
    machine.write("/var/tmp/link/file", "text", mode=0o600)
    assert machine.read("/run/target/file") == "text"
    assert machine.run("stat", "-c", "%a", "/run/target/file").stdout == "600\n"
    machine.run("rm", "-r", "/run/target", "/var/tmp/link")


def test_a_reboot_keeps_var_wipes_run_and_has_a_new_boot_id(machine: Machine) -> None:
    before = boot_id(machine)
    machine.write("/var/kept", "1")
    machine.write("/run/wiped", "1")
    machine.reboot()
    assert machine.run("cat", "/var/kept").stdout == "1"
    assert machine.run("test", "-e", "/run/wiped", check=False).returncode == 1
    assert boot_id(machine) != before


def test_a_crash_runs_no_stop_command(machine: Machine) -> None:
    machine.run(
        *("systemd-run", "--unit=witness", "--property=ExecStop=touch /var/stopped"),
        *("sleep", "infinity"),
    )
    before = boot_id(machine)
    machine.crash_and_boot()
    assert machine.run("test", "-e", "/var/stopped", check=False).returncode == 1
    assert boot_id(machine) != before


def test_it_can_be_off_and_on_again(machine: Machine) -> None:
    machine.poweroff()
    assert machine.leader == 0
    machine.write("/etc/while-off", "1")
    machine.boot()
    assert machine.run("cat", "/etc/while-off").stdout == "1"


def test_two_at_once_are_two_machines_and_leave_nothing() -> None:
    def look(word: str) -> tuple[str, str, str, Path]:
        with Machine() as machine:
            machine.write("/run/word", word)
            name = machine.run("hostname").stdout.strip()
            assert name == machine.name and nspawn_lock(machine).exists()
            # each kind of trace is there to be left behind
            assert {trace.split()[0] for trace in traces(name)} > {"process", f"/var/tmp/{name}"}
            return name, boot_id(machine), machine.read("/run/word"), nspawn_lock(machine)

    with ThreadPoolExecutor() as pool:
        one, two = pool.map(look, ("one", "two"))
    assert one[0] != two[0] and one[1] != two[1]
    assert (one[2], two[2]) == ("one", "two")
    assert traces(one[0]) | traces(two[0]) == set()
    assert not one[3].exists() and not two[3].exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(number: signal.Signals) -> None:
    process, name = staying_machine()
    assert traces(name)
    process.send_signal(number)
    process.communicate()
    assert left_of(name) == set()


def test_what_a_killed_keeper_leaves_is_removed_by_the_next_run() -> None:
    process, name = staying_machine()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    process.kill()
    process.communicate()
    assert traces(name)
    with Machine(deb=None):
        assert traces(name) == set()


@pytest.mark.nested
def test_a_machine_runs_inside_a_machine_where_systemd_is_pid_1() -> None:
    trees = (image.build_image(), guest.build_guest())
    binds = [f"--bind-ro={tree}:/var/cache/torpor/{tree.name}" for tree in trees]
    tests = ("/usr/bin/python3", "-B", "-m", "pytest", "-p", "no:cacheprovider")
    chosen = (
        "/mnt/tests/machine/test_machine.py",
        "-k",
        "reboot or crash or two_at_once or killed",
    )
    cache = {"XDG_CACHE_HOME": "/var/cache", "MACHINE": image.SUITE}
    with Machine(nspawn_options=[*binds, f"--bind-ro={TOP}:/mnt"]) as outer:
        done = outer.run(*tests, *chosen, env=cache, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert outer.run("systemctl", "--failed", "--quiet").stdout == ""
