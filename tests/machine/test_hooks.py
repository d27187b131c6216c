"""torpor's hooks in a bundle that people run with runc themselves."""

import json
from collections.abc import Iterator

import pytest

from machine import Machine

NAME = "hook-test"
BUNDLE = f"/srv/{NAME}"
STATE = f"/var/lib/torpor/{NAME}/state"
LOCK = f"/run/torpor/.locks/{NAME}"
OTHER = {"path": "/bin/true", "args": ["true", "of somebody else"]}
OURS = {
    stage: {"path": f"/usr/libexec/torpor/hooks/{program}", "timeout": 10}
    for stage, program in (("createRuntime", "create-runtime"), ("poststop", "poststop"))
}
# The container outlives the call. runc opens its own /dev/null for it: CRIU can keep that.
CALL = 'rm -f $0; runc --log $0 "$@" </dev/null >/dev/null 2>&1 || cat $0'
LOG = f"/run/{NAME}.log"
IMAGE = ("--image-path", f"{BUNDLE}/image", "--work-path", f"{BUNDLE}/work")


@pytest.fixture
def bundle(machine: Machine) -> Iterator[Machine]:
    """The machine, with a bundle at BUNDLE that has torpor's hooks behind somebody else's."""
    # CRIU cannot restore a read-only rootfs, as "runc spec" has it, without a /tmp in it.
    names = ("bin", "dev", "proc", "sys", "tmp")
    machine.run("mkdir", "-p", *(f"{BUNDLE}/rootfs/{name}" for name in names))
    machine.run("cp", "/bin/busybox", f"{BUNDLE}/rootfs/bin/busybox")
    machine.run("ln", "-sf", "busybox", f"{BUNDLE}/rootfs/bin/sh")
    machine.run("runc", "spec", "--bundle", BUNDLE)
    config = json.loads(machine.read(f"{BUNDLE}/config.json"))
    loop = "while :; do busybox usleep 50000; done"
    config["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", loop]}
    config["linux"]["cgroupsPath"] = f"/{NAME}"
    config["hooks"] = {"createRuntime": [OTHER]}
    machine.write(f"{BUNDLE}/config.json", json.dumps(config, indent="\t"))
    machine.run("torpor", "hooks", "add", BUNDLE)
    yield machine
    machine.run("runc", "delete", "--force", NAME)
    machine.run("rm", "-rf", BUNDLE, LOG, f"/var/lib/torpor/{NAME}", LOCK)


def runc(machine: Machine, *words: str) -> str:
    """What runc has against it; nothing when it did what it was asked."""
    return machine.run("sh", "-c", CALL, LOG, *words).stdout


def run(machine: Machine) -> None:
    assert runc(machine, "run", "--detach", "--bundle", BUNDLE, NAME) == ""


def end(machine: Machine) -> None:
    machine.run("runc", "kill", NAME, "KILL")
    gone = f'until runc state {NAME} | grep -q \'"status": "stopped"\'; do sleep 0.05; done'
    machine.run("timeout", "20", "sh", "-c", gone)
    machine.run("runc", "delete", NAME)


def checkpoint(machine: Machine) -> None:
    assert runc(machine, "checkpoint", *IMAGE, NAME) == ""


def restore(machine: Machine) -> str:
    return runc(machine, "restore", "--detach", *IMAGE, "--bundle", BUNDLE, NAME)


def record(machine: Machine) -> dict[str, str]:
    return dict(line.split("=", 1) for line in machine.read(STATE).splitlines())


def set_record(machine: Machine, name: str) -> None:
    """The record that a unit would have left of generation 3."""
    known = record(machine) | {"state": name, "generation": "3", "reason": "by the test"}
    text = "".join(f"{key}={value}\n" for key, value in known.items())
    machine.write(STATE, text, mode=0o600)


def loopback(machine: Machine) -> str:
    """The flags of lo in the container's network namespace."""
    pid = json.loads(machine.run("runc", "state", NAME).stdout)["pid"]
    return machine.run("nsenter", f"--target={pid}", "--net", "ip", "link", "show", "lo").stdout


def test_a_run_by_hand_is_recorded_from_its_start_to_its_end(bundle: Machine) -> None:
    run(bundle)
    begun = record(bundle)
    assert (begun["state"], begun["reason"]) == ("RUNNING", "run by hand")
    assert begun["boot"] == bundle.read("/proc/sys/kernel/random/boot_id").strip()
    end(bundle)
    assert record(bundle)["state"] == "EXITED"


@pytest.mark.parametrize("asleep", ["READY", "COMMITTED", "RESTORING", "DUMPING", "DAMAGED"])
def test_a_run_by_hand_makes_an_older_memory_void_and_says_so(bundle: Machine, asleep: str) -> None:
    run(bundle)
    end(bundle)
    set_record(bundle, asleep)
    image = f"/var/lib/torpor/{NAME}/generations/3/checkpoint/pages-1.img"
    bundle.write(image, "memory")
    run(bundle)
    now = record(bundle)
    assert (now["state"], now["generation"]) == ("RUNNING", "3")
    assert "generation 3" in now["reason"] and "is void" in now["reason"]
    assert bundle.read(image) == "memory"
    said = bundle.run("journalctl", "--identifier=torpor", "--lines=1", "--output=cat").stdout
    assert said.startswith(f"{NAME}: generation 3 ") and said.endswith("was run by hand\n")


def test_a_run_that_could_not_void_an_older_memory_is_refused(bundle: Machine) -> None:
    run(bundle)
    end(bundle)
    set_record(bundle, "READY")
    bundle.run("mkdir", f"{STATE}.new")  # where the next record would be written
    refusal = runc(bundle, "run", "--detach", "--bundle", BUNDLE, NAME)
    assert "cannot make generation 3 void" in refusal
    assert record(bundle)["state"] == "READY"
    assert bundle.run("runc", "state", NAME, check=False).returncode != 0


def test_a_run_without_older_memory_goes_on_unrecorded(bundle: Machine) -> None:
    run(bundle)
    end(bundle)
    bundle.run("mkdir", f"{STATE}.new")
    run(bundle)
    assert record(bundle)["state"] == "EXITED"


def test_a_restore_by_hand_has_its_loopback_and_is_recorded(bundle: Machine) -> None:
    run(bundle)
    checkpoint(bundle)
    assert record(bundle)["state"] == "EXITED"
    assert restore(bundle) == ""
    assert "LOOPBACK,UP" in loopback(bundle)
    now = record(bundle)
    assert (now["state"], now["reason"]) == ("RUNNING", "restored by hand")


def test_without_the_hooks_a_restore_by_hand_has_no_loopback(bundle: Machine) -> None:
    run(bundle)
    checkpoint(bundle)
    bundle.run("torpor", "hooks", "remove", BUNDLE)
    assert restore(bundle) == ""
    assert "LOOPBACK,UP" not in loopback(bundle)


def test_a_restore_by_hand_makes_our_memory_void(bundle: Machine) -> None:
    run(bundle)
    set_record(bundle, "READY")
    checkpoint(bundle)
    assert record(bundle)["state"] == "READY"  # poststop, which runs at a checkpoint, left it
    assert restore(bundle) == ""
    assert record(bundle)["reason"] == ("restored by hand: generation 3 was asleep and is void")


def test_a_run_by_hand_is_refused_while_a_helper_holds_the_container(bundle: Machine) -> None:
    run(bundle)
    set_record(bundle, "READY")
    bundle.run("runc", "delete", "--force", NAME)
    again = f"runc run --detach --bundle {BUNDLE} {NAME} </dev/null"
    done = bundle.run("flock", "--close", LOCK, "sh", "-c", again, check=False)
    assert done.returncode != 0
    assert f"{NAME} is busy" in done.stderr + done.stdout
    assert record(bundle)["state"] == "READY"


def test_adding_twice_changes_nothing_and_keeps_other_peoples_hooks(bundle: Machine) -> None:
    before = bundle.read(f"{BUNDLE}/config.json")
    assert json.loads(before)["hooks"] == {
        "createRuntime": [OTHER, OURS["createRuntime"]],
        "poststop": [OURS["poststop"]],
    }
    again = bundle.run("torpor", "hooks", "add", BUNDLE).stdout.splitlines()
    assert len(again) == 2 and all(line.endswith(": already there") for line in again)
    assert bundle.read(f"{BUNDLE}/config.json") == before
    bundle.run("torpor", "hooks", "remove", BUNDLE)
    assert json.loads(bundle.read(f"{BUNDLE}/config.json"))["hooks"] == {"createRuntime": [OTHER]}


def test_a_bundle_that_is_none_is_refused_in_one_message(bundle: Machine) -> None:
    bundle.run("ln", "-sf", "/etc/passwd", f"{BUNDLE}/rootfs/config.json")
    done = bundle.run("torpor", "hooks", "add", f"{BUNDLE}/rootfs", check=False)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1 and "symbolic link" in done.stderr
