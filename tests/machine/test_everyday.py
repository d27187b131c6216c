"""What people type every day: the table, what a container says, a look inside."""

import json
import re
import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox
from inside import CommandFailed
from machine import Machine
from torpor import events

NAME = "daily"


@pytest.fixture
def daily(machine: Machine) -> Iterator[Container]:
    make_busybox(machine)
    container = Container(machine, NAME)
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
    container.start()
    yield container
    container.remove()


def table(machine: Machine, *words: str, **env: str) -> dict[str, list[str]]:
    """The rows by their names; the header is that of NAME."""
    lines = machine.run(*words, env=env).stdout.splitlines()
    return {line.split()[0]: line.split() for line in lines if line.split()}


def test_without_a_verb_there_is_a_table(daily: Container) -> None:
    machine = daily.machine
    rows = table(machine, "torpor")
    assert rows["NAME"] == ["NAME", "STATE", "SINCE", "SIZE", "SLICE", "GEN", "RESULT", "WHY"]
    assert rows[NAME][1] == "running" and "torpor.slice" in rows[NAME]
    time.sleep(0.3)
    daily.stop()
    asleep = table(machine, "torpor", "status")[NAME]
    assert asleep[1] == "asleep" and asleep[5] == "MiB" and "success" in asleep
    assert asleep[-2:] == ["systemctl", "stop"]
    row = json.loads(machine.run("torpor", "status", "--json", NAME).stdout)
    assert (row["slice"], row["result"], row["memory_bytes"]) == ("torpor.slice", "success", None)


def test_colour_is_for_terminals_that_want_it(daily: Container) -> None:
    machine = daily.machine
    assert "\033" not in machine.run("torpor").stdout
    on_terminal = ("script", "--quiet", "--command", "torpor status", "/dev/null")
    shown = machine.run(*on_terminal, env={"TERM": "xterm"}).stdout
    assert f"{NAME}  \033[32mrunning\033[0m" in shown
    for env in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\033" not in machine.run(*on_terminal, env=env).stdout


def test_what_it_says_is_what_the_journal_has(daily: Container) -> None:
    machine = daily.machine
    until = f"until torpor logs {NAME} | grep -q 'count 3'; do sleep 0.1; done"
    machine.run("timeout", "10", "sh", "-c", until)
    said = machine.run("torpor", "logs", NAME, "-o", "cat", "--no-pager", "-n", "100").stdout
    assert "count 1\ncount 2\ncount 3\n" in said
    with pytest.raises(CommandFailed) as failed:
        machine.run("torpor", "logs", "nobody")
    assert failed.value.returncode == 4


def test_a_look_inside(daily: Container) -> None:
    machine = daily.machine
    assert machine.run("torpor", "exec", NAME, "cat", "/proc/1/comm").stdout == "sh\n"
    words = ("torpor", "exec", "-u", "7:8", "-w", "/tmp", NAME, "/bin/sh", "-c")
    done = machine.run(
        *words, 'echo "$PWD"; read word; echo "$word"; exit 9', input="in\n", check=False
    )
    assert (done.returncode, done.stdout) == (9, "/tmp\nin\n")
    time.sleep(0.2)
    daily.stop()
    with pytest.raises(CommandFailed, match="does not run"):
        machine.run("torpor", "exec", NAME, "true")


def test_what_it_takes(daily: Container) -> None:
    words = ("--batch", "--iterations=1", "--raw", "--depth=5")
    machine = daily.machine
    assert f"torpor@{NAME}.service" in machine.run("torpor", "top", NAME, *words).stdout


SAMPLE = re.compile(r'(torpor_[a-z_]+)\{((?:[a-z]+="[^"]*",?)+)\} ([0-9.e+-]+)')


def metrics(machine: Machine) -> dict[tuple[str, str], float]:
    """By metric and labels; each line is as the format wants it."""
    found = {}
    for line in machine.run("torpor", "metrics").stdout.splitlines():
        if line.startswith("# "):
            assert re.fullmatch(r"# (HELP torpor_\w+ .+|TYPE torpor_\w+ gauge)", line), line
            continue
        matched = SAMPLE.fullmatch(line)
        assert matched, line
        found[matched[1], matched[2]] = float(matched[3])
    return found


def test_metrics_say_what_it_is_and_was(daily: Container) -> None:
    machine = daily.machine
    name = f'name="{NAME}"'
    before = metrics(machine)
    state = "torpor_container_state"
    assert before[state, f'{name},state="RUNNING",unit="active"'] == 1
    is_counted = daily.property("MemoryCurrent").isdigit()  # not without a controller for it
    assert (("torpor_container_memory_bytes", name) in before) == is_counted
    time.sleep(0.2)
    daily.sleep_and_wake()
    daily.stop()
    after = metrics(machine)
    assert after[state, f'{name},state="READY",unit="inactive"'] == 1
    for what, count in (("sleeps", 2), ("wakes", 1)):
        key = (f"torpor_container_{what}_last_day", name)
        assert after[key] - before[key] == count
    for what in ("sleep", "frozen", "wake"):
        assert 0 < after[f"torpor_container_{what}_seconds", name] < 60
    assert after["torpor_container_image_bytes", name] > 10_000
    daily.start()
    machine.run("systemctl", "kill", "--signal=KILL", daily.unit)
    daily.wait_for("failed")
    key = ("torpor_container_failures_last_day", f'{name},cause="crash"')
    assert metrics(machine)[key] - before[key] == 1


def test_a_collector_of_text_files_finds_them(daily: Container) -> None:
    machine = daily.machine
    path = "/var/lib/prometheus/node-exporter/torpor.prom"
    machine.run("systemctl", "start", "torpor-metrics.service")
    assert machine.run("test", "-e", path, check=False).returncode  # there is no collector
    machine.run("mkdir", "-p", path.rpartition("/")[0])
    machine.run("systemctl", "start", "torpor-metrics.service")
    assert f'name="{NAME}"' in machine.read(path)
    assert machine.run("stat", "-c", "%a %U", path).stdout == "644 root\n"
    machine.run("rm", "-r", "/var/lib/prometheus")
    with pytest.raises(CommandFailed, match="does its directory exist"):
        machine.run("torpor", "metrics", "--output", "/srv/nowhere/file")


def new(machine: Machine, *words: str, check: bool = True) -> str:
    done = machine.run("torpor", "new", *words, check=check)
    assert "Traceback" not in done.stderr
    return done.stdout if check else done.stderr


def follow(machine: Machine, said: str) -> None:
    """Do what it says comes next, as a person would."""
    assert len(said.splitlines()) == 2
    machine.run("sh", "-ec", said.replace("\n", "; sleep 0.3\n", 1))


@pytest.mark.parametrize("root", ["--from", "--rootfs"])
def test_a_first_container_goes_on_with_what_is_said(machine: Machine, root: str) -> None:
    make_busybox(machine)
    container = Container(machine, f"first{root}")
    words = (root, BUSYBOX, "--", "/bin/sh", "-c")
    try:
        follow(machine, new(machine, container.name, *words, COUNTER))
        assert container.state() == "READY", container.journal()
        text = machine.read(f"/etc/torpor/{container.name}.yaml")
        assert "#network: " in text and "torpor.yaml(5)" in text
        assert "is there already" in new(machine, container.name, *words, "true", check=False)
        assert machine.read(f"/etc/torpor/{container.name}.yaml") == text
    finally:
        container.remove()


@pytest.mark.parametrize(
    "words",
    [("--rootfs", "/srv/nowhere", "--", "/bin/sh"), ("--from", BUSYBOX), ("--bundle", "/srv")],
)
def test_one_that_would_be_wrong_is_not_left(machine: Machine, words: tuple[str, ...]) -> None:
    make_busybox(machine)
    assert new(machine, "wrong", *words, check=False)
    assert machine.run("test", "-e", "/etc/torpor/wrong.yaml", check=False).returncode


def test_one_of_podmans_is_taken_over(machine: Machine) -> None:
    make_busybox(machine)
    container = Container(machine, "taken")
    image = f"tar -C {BUSYBOX} -c . | podman import - localhost/taken:1"
    machine.run("sh", "-ec", f"{image}; mkdir -p /srv/taken; echo kept >/srv/taken/file")
    options = ("--network=none", "-v", "/srv/taken:/data:ro", "-e", "WORD=a b", "--cap-drop=all")
    command = ("/bin/sh", "-c", f'echo "$WORD"; cat /data/file; {COUNTER}')
    machine.run("podman", "create", "--name=taken", *options, "localhost/taken:1", *command)
    try:
        follow(machine, new(machine, "taken", "--podman", "taken"))
        assert "podman has no" in new(machine, "other", "--podman", "nobody", check=False)
        machine.run("podman", "system", "reset", "--force")
        container.start()
        time.sleep(0.3)
        assert "a b\nkept\ncount 1\n" in container.journal()
        assert container.property("StatusText").startswith("restored"), container.journal()
        assert "podman diff taken" in machine.read("/etc/torpor/taken.yaml")
    finally:
        container.remove()
        machine.run("podman", "system", "reset", "--force", check=False)
        machine.run("rm", "-rf", "/srv/taken", "/var/lib/torpor/.podman")


def entries(machine: Machine, event: events.Event, **fields: str) -> list[dict[str, str]]:
    """What the journal has of an event."""
    words = [f"MESSAGE_ID={event[0]}", *(f"{key}={value}" for key, value in fields.items())]
    machine.run("journalctl", "--sync")
    said = machine.run("journalctl", "-o", "json", "--all", *words).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_programs_find_in_the_journal_what_became_of_a_container(daily: Container) -> None:
    machine = daily.machine
    time.sleep(0.2)
    daily.sleep_and_wake()
    machine.run("torpor", "snapshot", NAME)
    asleep = entries(machine, events.ASLEEP, TORPOR_NAME=NAME)[-1]
    assert asleep["TORPOR_GENERATION"] == "1"
    assert int(asleep["TORPOR_IMAGE_BYTES"]) > 1 << 15
    assert 0 < int(asleep["TORPOR_FROZEN_USEC"]) < int(asleep["TORPOR_TOOK_USEC"])
    assert (asleep["_SYSTEMD_UNIT"], asleep["SYSLOG_IDENTIFIER"]) == (daily.unit + ".service", NAME)
    assert entries(machine, events.STARTED, TORPOR_NAME=NAME)
    awake = entries(machine, events.AWAKE, TORPOR_NAME=NAME)[-1]
    assert awake["MESSAGE"].startswith(f"{NAME}: restored generation 1, ")
    taken = entries(machine, events.SNAPSHOT, TORPOR_GENERATION="2")[-1]
    assert taken["TORPOR_NAME"] == NAME
    assert f"{NAME}: snapshot 2: " in daily.journal()


def test_the_journal_explains_and_has_what_the_container_says_by_its_name(daily: Container) -> None:
    machine = daily.machine
    time.sleep(0.2)
    daily.stop()
    machine.run("journalctl", "--sync")
    said = machine.run("journalctl", "-x", "--no-pager", f"TORPOR_NAME={NAME}").stdout
    assert "count 1" in said
    assert f"Subject: Container {NAME} fell asleep" in said
    assert f"systemctl start torpor@{NAME}\n" in said
    assert f"torpor inspect {NAME}\n" in said
