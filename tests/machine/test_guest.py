"""systemd as a container's PID 1: it boots, ends as it is told, sleeps and wakes with its units."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import containers
import guest
from containers import COUNTER, Config, Container
from cycle import INIT, cycle, enter, idle, left, running, settled, woke_s
from machine import Machine

IDMAP = "0:100000:65536"
# As root of the host it would need CAP_SYS_RESOURCE to dump what other users run, and the machine
# has it not. In a user namespace all of it runs.
MASK_OTHER_USERS = "systemctl mask --now dbus.socket dbus.service systemd-logind.service"
TICK = """
import os, socket, time
for number in range(10000):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.sendto(f"READY=1\\nWATCHDOG=1\\nSTATUS={number}".encode(), os.environ["NOTIFY_SOCKET"])
    time.sleep(0.1)
"""
# So late that it does not ring before the container sleeps.
ALARM = "systemd-run -q --on-active=10 --timer-property=AccuracySec=100ms"
FAREWELL = 'trap "echo bye >/root/bye; exit" TERM; while :; do sleep 0.1; done'
TREE = "/srv/guest-copy"


@contextmanager
def booted(machine: Machine, name: str, **keys: object) -> Iterator[Container]:
    """A container in which systemd has booted from the guest tree, and nothing failed."""
    wanted: dict[str, object] = {"image": guest.PLACE, "command": INIT, **keys}
    if "rootfs" in wanted or "bundle" in wanted:
        del wanted["image"]
    if "bundle" in wanted:
        wanted["command"] = []
    with running(machine, name, **wanted) as container:
        assert settled(container) == "running", enter(
            container, "journalctl --no-pager", check=False
        )
        yield container


@pytest.fixture(scope="module")
def tree(machine: Machine) -> Iterator[str]:
    """A copy of the guest tree that a container may write to."""
    machine.run("cp", "-a", guest.PLACE, TREE)
    yield TREE
    machine.run("rm", "-rf", "--one-file-system", TREE)


def mounts(container: Container) -> dict[str, tuple[str, set[str]]]:
    """What is mounted in it: place → type and options."""
    text = enter(container, "cat /proc/self/mountinfo")
    found = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        kind, _, options = after.split(" ", 2)
        found[fields[4]] = (kind, {*fields[5].split(","), *options.split(","), *fields[6:]})
    return found


def test_it_boots_from_an_image_with_what_it_needs_mounted(machine: Machine) -> None:
    with booted(machine, "boot") as container:
        found = mounts(container)
        for place, noexec in (
            ("/run", False),
            ("/run/lock", True),
            ("/tmp", False),
            ("/var/log/journal", True),
        ):
            kind, options = found[place]
            assert kind == "tmpfs"
            assert {"rw", "nosuid", "nodev"} <= options
            assert ("noexec" in options) == noexec
            assert not any(option.startswith("shared") for option in options)
        assert "size=65536k" in found["/run"][1] & found["/run/lock"][1]
        kind, options = found["/sys/fs/cgroup"]
        assert kind == "cgroup2"
        assert "rw" in options
        # Its own tree, not the machine's.
        assert enter(container, "cat /proc/1/cgroup").endswith("0::/init.scope")
        assert enter(container, "ls /sys/fs/cgroup | grep torpor.slice", check=False) == ""
        variables = enter(container, "tr '\\0' '\\n' </proc/1/environ").splitlines()
        assert "container=torpor" in variables
        assert enter(container, "systemd-detect-virt --container", check=False) == "container-other"


def test_it_has_a_machine_id_of_its_own_that_stays(machine: Machine) -> None:
    with booted(machine, "ident", checkpoint={"on": []}) as container:
        first = enter(container, "cat /etc/machine-id")
        assert re.fullmatch("[0-9a-f]{32}", first)
        assert first != machine.read("/etc/machine-id").strip()
        told = enter(container, "tr '\\0' '\\n' </proc/1/environ | grep ^container_uuid=")
        assert told.partition("=")[2].replace("-", "") == first
        container.stop()
        machine.run("systemctl", "clean", "--what=state", container.unit)
        container.start()
        settled(container)
        assert enter(container, "cat /etc/machine-id") == first


@pytest.mark.parametrize("user_namespace", [False, True])
def test_it_boots_and_sleeps_with_a_read_only_root(
    machine: Machine, *, user_namespace: bool
) -> None:
    keys = {"idmap": IDMAP} if user_namespace else {}
    with booted(machine, "frozenroot", read_only=True, **keys) as container:
        assert enter(container, "touch /etc/x || echo refused") == "refused"
        kept = "cat /etc/machine-id; systemctl show -P MainPID cron systemd-journald"
        before = enter(container, kept)
        assert re.match("[0-9a-f]{32}\n", before)
        if not user_namespace:
            enter(container, MASK_OTHER_USERS.replace("--now", "--now --runtime"))
        cycle(container)
        assert enter(container, kept) == before
        enter(container, "systemctl restart cron && systemctl is-active cron")
        assert idle(container)


def test_it_boots_in_a_user_namespace_from_a_directory(machine: Machine, tree: str) -> None:
    """What the directory has in the places that are memory is there too."""
    places = ("run", "run/lock", "tmp", "var/log/journal")
    script = 'cd "$1"; shift; for place; do mkdir -p $place; echo $place >$place/mine; done'
    machine.run("sh", "-ec", script, "sh", tree, *places)
    with booted(machine, "mapped", rootfs=tree, idmap=IDMAP) as container:
        found = enter(container, f"cd /; for place in {' '.join(places)}; do cat $place/mine; done")
        assert tuple(found.split()) == places
        enter(container, "echo other >/run/mine")
        kernel_threads = enter(container, "stat -c %u /sys/fs/cgroup /proc/1")
        assert kernel_threads.split() == ["0", "0"]
        main = container.property("MainPID")
        assert machine.run("stat", "-c", "%u", f"/proc/{main}").stdout.strip() == "100000"


def test_it_boots_from_a_bundle_when_the_definition_says_so(machine: Machine, tree: str) -> None:
    def change(config: Config) -> None:
        config["process"]["args"] = INIT
        config["process"]["capabilities"] = {
            kind: [
                f"CAP_{name}"
                for name in (
                    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
                    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "AUDIT_WRITE"),
                )
            ]
            for kind in ("bounding", "effective", "permitted")
        }
        config["root"]["readonly"] = False
        config["mounts"].append(
            {"destination": "/tmp", "type": "tmpfs", "source": "mine", "options": ["size=1m"]}
        )

    bundle = containers.make_bundle(machine, "/srv/guest-bundle", tree, change)
    with booted(machine, "bundled", bundle=bundle, systemd="always") as container:
        found = mounts(container)
        assert "size=1024k" in found["/tmp"][1], "its author's mount was replaced"
        assert "rw" in found["/sys/fs/cgroup"][1]
    machine.run("rm", "-rf", bundle)


def test_its_journal_is_a_directory_of_the_host_where_that_is_a_volume(machine: Machine) -> None:
    with booted(machine, "written", volumes=["/var/log/journal"]) as container:
        enter(container, "systemd-cat -t greeter echo hello from inside; journalctl --flush --sync")
        directory = "/var/lib/torpor/written/volumes"
        script = f'journalctl -D "$(find {directory} -maxdepth 1 -mindepth 1)" -t greeter -o cat'
        assert machine.run("sh", "-c", script).stdout.strip() == "hello from inside"


def test_its_journal_is_in_a_directory_of_the_host_that_is_mounted_above(machine: Machine) -> None:
    machine.run("mkdir", "-p", "/srv/logs/journal")
    with booted(machine, "above", mounts=["/srv/logs:/var/log"]) as container:
        assert "/var/log/journal" not in mounts(container)
        enter(container, "systemd-cat -t greeter echo hello from inside; journalctl --flush --sync")
        script = "journalctl -D /srv/logs/journal/* -t greeter -o cat"
        assert machine.run("sh", "-c", script).stdout.strip() == "hello from inside"
    machine.run("rm", "-r", "/srv/logs")


def took_s(container: Container, first: str, last: str) -> float:
    """The time between two messages of systemd about its unit, each named by its first word."""
    words = ("journalctl", "--sync"), ("journalctl", "-u", container.unit, "-o", "short-unix")
    listing = [container.machine.run(*line).stdout for line in words][1]
    said = re.findall(r"^([\d.]+) \S+ systemd\[1\]: (\w+) ", listing, re.MULTILINE)
    times = {word: float(at_s) for at_s, word in said}
    return times[last] - times[first]


def test_a_stop_ends_it_in_order_and_soon(machine: Machine) -> None:
    keys = {"checkpoint": {"on": []}, "notify": "container"}
    with booted(machine, "ended", **keys) as container:
        enter(container, f"systemd-run -q --unit=last sh -c '{FAREWELL}'")
        container.stop()
        start_s = took_s(container, "Starting", "Started")
        stop_s = took_s(container, "Stopping", "Stopped")
        assert stop_s < 2 + start_s, "it was waited for, and killed"
        assert container.property("Result") == "success"
        upper = "/var/lib/torpor/ended/storage/upper/root/bye"
        assert machine.read(upper).strip() == "bye"


@pytest.mark.parametrize("user_namespace", [False, True])
def test_poweroff_exit_and_reboot_inside_mean_what_they_say(
    machine: Machine, *, user_namespace: bool
) -> None:
    keys = {"idmap": IDMAP} if user_namespace else {}
    with booted(machine, "inner", **keys) as container:
        first = container.property("MainPID")
        enter(container, "systemctl reboot", check=False)
        script = 'until [ "$(systemctl show -P NRestarts "$1")" = 1 ]; do sleep 0.1; done'
        machine.run("timeout", "20", "sh", "-c", script, "sh", container.unit)
        container.wait_for("active", 20)
        assert container.property("MainPID") != first
        assert settled(container) == "running"

        enter(container, "systemctl poweroff", check=False)
        container.wait_for("inactive", 20)
        assert container.property("Result") == "success"

        container.start()
        settled(container)
        enter(container, "systemctl exit 42", check=False)
        container.wait_for("failed", 20)
        assert container.property("Result") == "exit-code"
        assert container.property("ExecMainStatus") == "42"


def test_who_may_reboot_loads_no_kernel_for_the_host(machine: Machine) -> None:
    with booted(machine, "kexec") as container:
        # A unit of its systemd; who enters by nsenter keeps the rights it came with.
        run = "systemd-run -q --wait --pipe"
        rights = enter(container, f"{run} grep CapEff /proc/self/status").split()[1]
        assert int(rights, 16) >> 22 & 1, "it may not reboot"
        main = container.property("MainPID")
        status = machine.read(f"/proc/{main}/status")
        assert re.search(r"^Seccomp_filters:\t1$", status, re.MULTILINE)


def test_it_sleeps_and_wakes_with_its_units_over_a_reboot_too(machine: Machine) -> None:
    with booted(machine, "dream", idmap=IDMAP) as container:
        machine.run("systemctl", "enable", container.unit)
        enter(container, f"systemd-run -q --unit=counter sh -c '{COUNTER}'")
        enter(
            container, "systemd-run -q --wait loginctl enable-linger root; systemctl start user@0"
        )
        watched = (
            "systemctl show -P MainPID systemd-journald dbus systemd-logind cron counter user@0"
        )
        units = enter(container, watched)
        groups = "cd /sys/fs/cgroup && find . -type d | sort"
        tree_before = enter(container, groups)
        for sleep in (container.sleep_and_wake, machine.reboot):
            enter(container, f"rm -f /root/rang; {ALARM} sh -c 'date +%s >/root/rang'")
            sleep()
            assert container.property("StatusText").startswith("restored"), container.journal()
            assert enter(container, watched) == units
            assert set(tree_before.split()) <= set(enter(container, groups).split())
            wait = "timeout 30 sh -c 'until [ -s /root/rang ]; do sleep 0.1; done'; cat /root/rang"
            assert int(enter(container, wait)) >= woke_s(container), "it rang before"
            enter(container, "systemctl restart cron && systemctl is-active cron")
            units = enter(container, watched)
            assert idle(container)
            assert settled(container) == "running"
        enter(container, "systemctl stop counter; journalctl --sync")
        lines = enter(container, "journalctl -u counter -o cat --no-pager | grep '^count [0-9]'")
        numbers = [int(line.split()[1]) for line in lines.splitlines()]
        assert containers.without_gap(numbers)
        assert len(numbers) > 10


def test_it_sleeps_and_wakes_without_a_user_namespace(machine: Machine) -> None:
    with booted(machine, "plain") as container:
        enter(container, f"{MASK_OTHER_USERS}; systemd-run -q --unit=counter sh -c '{COUNTER}'")
        pid = enter(container, "systemctl show -P MainPID counter")
        for _ in range(2):
            container.stop()
            container.start()
            assert container.property("StatusText").startswith("restored"), container.journal()
            assert enter(container, "systemctl show -P MainPID counter") == pid
            assert "counter.service" in enter(container, f"cat /proc/{pid}/cgroup")
            assert idle(container)


def test_what_its_services_say_is_heard_after_a_wake(machine: Machine) -> None:
    """They are known by the inodes of pidfds, which a restore makes anew: a watchdog would bite."""
    with booted(machine, "heard", idmap=IDMAP) as container:
        enter(container, f"cat >/root/tick.py <<'END'\n{TICK}END")
        properties = "-p Type=notify -p WatchdogSec=2 -p Restart=always"
        enter(container, f"systemd-run -q --unit=tick {properties} python3 /root/tick.py")
        for _ in range(2):
            container.stop()
            container.start()
            assert container.property("StatusText").startswith("restored"), container.journal()
            time.sleep(1)
            said = int(enter(container, "systemctl show -P StatusText tick"))
            time.sleep(3)
            assert int(enter(container, "systemctl show -P StatusText tick")) > said
            assert enter(container, "systemctl show -P NRestarts tick") == "0"


def test_it_sleeps_while_its_services_talk(machine: Machine) -> None:
    """CRIU cannot save a message with credentials that is under way."""
    with booted(machine, "chatty", idmap=IDMAP) as container:
        enter(container, f"cat >/root/tick.py <<'END'\n{TICK}END")
        for number in range(3):
            enter(
                container, f"systemd-run -q --unit=t{number} -p Type=notify python3 /root/tick.py"
            )
        enter(container, f"systemd-run -q --unit=flood sh -c '{COUNTER.replace('sleep 0.1', ':')}'")
        for _ in range(5):
            container.stop()
            assert container.state() == "READY", container.journal()
            container.start()
            assert container.property("StatusText").startswith("restored"), container.journal()
        assert enter(container, "systemctl is-active flood t0 t1 t2").split() == ["active"] * 4


@pytest.fixture
def notifier(machine: Machine) -> Iterator[Container]:
    """A container that says by itself when it is ready, to be defined and started."""
    container = Container(machine, "teller")
    yield container
    container.remove()
    assert left(container) == ""


def test_the_unit_is_active_when_the_systemd_in_it_says_so(notifier: Container) -> None:
    notifier.define(image=guest.PLACE, command=INIT, notify="container")
    notifier.start()
    assert enter(notifier, "systemctl is-system-running", check=False) == "running"
    assert notifier.property("MainPID") == notifier.machine.read("/run/torpor/teller/pid").strip()
    assert "not our child" not in notifier.journal()


SAY = (
    "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    "s.sendto(b'%s', os.environ['NOTIFY_SOCKET'])"
)


def test_a_container_that_ends_before_it_is_ready_gives_the_unit_its_status(
    notifier: Container,
) -> None:
    notifier.define(image=guest.PLACE, command=["/bin/sh", "-c", "exit 7"], notify="container")
    assert notifier.systemctl("start", check=False) != 0
    assert (notifier.property("Result"), notifier.property("ExecMainStatus")) == ("exit-code", "7")
    assert "ended with status 7 before it said that it is ready" in notifier.journal()


def test_a_container_cannot_name_another_main_process(notifier: Container) -> None:
    say = SAY % "MAINPID=1\\nSTATUS=warming up\\nREADY=1"
    command = ["/usr/bin/python3", "-c", f"{say}\nimport time; time.sleep(1000)"]
    notifier.define(image=guest.PLACE, command=command, notify="container")
    notifier.start()
    assert notifier.property("MainPID") == notifier.machine.read("/run/torpor/teller/pid").strip()


def test_a_container_that_is_never_ready_is_ended_at_the_timeout(notifier: Container) -> None:
    notifier.define(image=guest.PLACE, command=["/bin/sleep", "1000"], notify="container")
    notifier.drop_in("timeout", "TimeoutStartSec=3")
    assert notifier.systemctl("start", check=False) != 0
    assert notifier.property("Result") in ("timeout", "exit-code")
    assert "did not say within 3 s that it is ready" in notifier.journal()
    assert notifier.state() == "EXITED"


def test_one_that_tells_sleeps_and_wakes(notifier: Container) -> None:
    command = [
        "/usr/bin/python3",
        "-c",
        f"{SAY % 'READY=1'}\nimport time\nwhile True: time.sleep(1)",
    ]
    notifier.define(image=guest.PLACE, command=command, notify="container")
    notifier.start()
    notifier.stop()
    assert notifier.state() == "READY", notifier.journal()
    notifier.start()
    assert notifier.property("StatusText").startswith("restored")


def test_machined_knows_it_until_it_is_gone(machine: Machine) -> None:
    def machines() -> list[Config]:
        found = machine.run("machinectl", "list", "--output=json").stdout
        return list(json.loads(found or "[]"))

    keys = {"idmap": IDMAP, "register": True, "notify": "container"}
    with booted(machine, "known", **keys) as container:
        assert [found["machine"] for found in machines()] == ["known"]
        status = machine.run("machinectl", "status", "known", "--no-pager").stdout
        assert enter(container, "cat /etc/machine-id") in status.partition("\n")[0]
        assert (
            machine.run(
                "sh", "-c", "machinectl -q shell known /bin/echo hi </dev/null"
            ).stdout.strip()
            == "hi"
        )
        assert (
            machine.run("systemctl", "-M", "known", "is-active", "cron").stdout.strip() == "active"
        )
        script = "systemd-cat -t greeter echo hello; journalctl --sync"
        enter(container, script)
        read = machine.run("journalctl", "-M", "known", "-t", "greeter", "-o", "cat", "--no-pager")
        assert read.stdout.strip() == "hello"
        container.stop()
        assert machines() == []
        container.start()
        assert [found["machine"] for found in machines()] == ["known"]
        assert (
            machine.run("systemctl", "-M", "known", "is-active", "cron").stdout.strip() == "active"
        )
    assert machines() == []


def test_without_machined_it_starts_with_a_warning(machine: Machine) -> None:
    machine.run("systemctl", "mask", "--now", "--runtime", "systemd-machined.service")
    try:
        with booted(machine, "unknown", register=True) as container:
            assert "machinectl will not know it" in container.journal()
    finally:
        machine.run("systemctl", "unmask", "--runtime", "systemd-machined.service")
