"""What is refused is refused with one message, a hint and an exit status; never a traceback."""

import pytest

from containers import BUSYBOX, Config, Container, make_bundle, make_busybox
from machine import Machine

START = f"rootfs: {BUSYBOX}\ncommand: [/bin/true]\n"


def refused(machine: Machine, *argv: str) -> tuple[int, str]:
    """Exit status and standard error of a command that must be refused."""
    done = machine.run(*argv, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{START}hostnam: x\n", ["yaml:3", "hostnam", "hostname"]),
        (f"{START}checkpoint: {{on: never}}\n", ["yaml:3", "checkpoint.on"]),
        ("rootfs: /nowhere\ncommand: [/bin/true]\n", ["/nowhere"]),
        ("bundle: /nowhere\n", ["/nowhere"]),
        ("rootfs: /srv/busybox\n", ["command"]),
        ("rootfs: [\n", ["yaml:"]),
        (f"{START}user: nobody-here\n", ["nobody-here"]),
    ],
)
def test_a_wrong_definition_names_file_line_and_key(
    machine: Machine, text: str, words: list[str]
) -> None:
    make_busybox(machine)
    machine.write("/etc/torpor/wrong.yaml", text)
    container = Container(machine, "wrong")
    status, said = refused(machine, "torpor", "check", "wrong")
    assert status == 78
    for word in words:
        assert word in said
    assert container.systemctl("start", check=False) != 0
    journal = container.journal()
    assert words[-1] in journal
    assert "Traceback" not in journal
    assert container.property("ExecMainStatus") == "78"
    container.remove()


def test_no_definition(machine: Machine) -> None:
    container = Container(machine, "undefined")
    assert container.systemctl("start", check=False) != 0
    assert "/etc/torpor/undefined.yaml" in container.journal()
    assert "Traceback" not in container.journal()
    container.remove()


def test_a_container_of_the_same_name_that_is_not_ours_is_never_deleted(machine: Machine) -> None:
    make_busybox(machine)
    make_bundle(
        machine,
        "/srv/foreign",
        BUSYBOX,
        lambda config: config["process"].update(args=["/bin/sleep", "1000"]),
    )
    run = "runc run -d -b /srv/foreign taken </dev/null >/dev/null 2>&1"
    machine.run("systemd-run", "-q", "-p", "Type=forking", "--unit=foreign", "sh", "-c", run)
    container = Container(machine, "taken").define(rootfs=BUSYBOX, command=["/bin/true"])
    try:
        assert container.systemctl("start", check=False) != 0
        text = container.journal()
        assert "runc already has a container 'taken', of bundle /srv/foreign" in text
        assert "Traceback" not in text
        assert '"status": "running"' in machine.run("runc", "state", "taken").stdout
    finally:
        machine.run("runc", "delete", "-f", "taken", check=False)
        machine.run("systemctl", "stop", "foreign", check=False)
        container.remove()


@pytest.mark.parametrize("verb", ["status", "check", "discard"])
@pytest.mark.parametrize("name", ["../etc", "-x", ".hidden", "a b", "x" * 65, "a\nb"])
def test_a_name_that_is_none(machine: Machine, verb: str, name: str) -> None:
    status, _ = refused(machine, "torpor", verb, "--", name)
    assert status == 2


def test_a_user_without_rights_gets_one_clear_line(machine: Machine) -> None:
    status, said = refused(machine, "setpriv", "--reuid=65534", "torpor", "status")
    assert status == 77
    assert said.splitlines()[0] == (
        "torpor: status needs root: it reads and changes root's containers"
    )


def test_verbs_that_do_not_fit_the_state(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "unfit")
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", "while :; do sleep 0.1; done"])
    try:
        assert "is not running" in refused(machine, "torpor", "stop", "--fresh", "unfit")[1]
        assert "is not running" in refused_after_check(machine, "unfit")
        container.start()
        assert "is running" in refused(machine, "torpor", "discard", "unfit")[1]
    finally:
        container.remove()


def refused_after_check(machine: Machine, name: str) -> str:
    done = machine.run("torpor", "check", "--checkpoint", name, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_every_verb_has_help_and_the_command_a_version(machine: Machine) -> None:
    assert machine.run("torpor", "--version").stdout.startswith("torpor ")
    for verb in ("status", "check", "stop", "discard", "doctor", "hooks"):
        assert "usage: torpor" in machine.run("torpor", verb, "--help").stdout


def test_doctor_finds_the_test_machine_able(machine: Machine) -> None:
    done = machine.run("torpor", "doctor", check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"mounts": [1]},
        {"mounts": 5},
        {"mounts": [{"destination": "/x", "type": "bind", "source": 7, "options": ["bind"]}]},
        {"annotations": 3},
        {"linux": {"uidMappings": [{"containerID": 0}]}},
        {"linux": {"gidMappings": 7}},
        {"linux": 9},
        {"root": {"path": "/nowhere"}},
    ],
)
def test_a_malformed_bundle_is_named(machine: Machine, change: Config) -> None:
    make_busybox(machine)
    make_bundle(machine, "/srv/malformed", BUSYBOX, lambda config: config.update(change))
    machine.write("/etc/torpor/malformed.yaml", "bundle: /srv/malformed\ncommand: [/bin/true]\n")
    status, said = refused(machine, "torpor", "check", "malformed")
    assert status == 78
    assert "/srv/malformed/config.json" in said
    machine.run("rm", "-r", "/etc/torpor/malformed.yaml", "/srv/malformed")
