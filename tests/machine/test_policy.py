"""When a container sleeps, when it starts fresh, and what is kept."""

import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Config, Container, make_bundle, make_busybox
from machine import Machine

COMMAND = ["/bin/sh", "-c", COUNTER]


@pytest.fixture
def counter(machine: Machine) -> Iterator[Container]:
    """A running counter."""
    make_busybox(machine)
    container = Container(machine, f"policy{time.monotonic_ns()}")
    container.define(rootfs=BUSYBOX, command=COMMAND)
    container.start()
    time.sleep(0.3)
    yield container
    container.remove()


def fresh_starts(container: Container) -> int:
    time.sleep(0.2)
    return container.numbers().count(1)


def test_a_restart_starts_fresh(counter: Container) -> None:
    counter.systemctl("restart")
    assert fresh_starts(counter) == 2
    assert counter.property("ActiveState") == "active"


def test_a_restart_keeps_the_memory_where_the_definition_says_so(counter: Container) -> None:
    counter.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"on": ["restart"]})
    counter.systemctl("restart")
    assert fresh_starts(counter) == 1
    counter.stop()
    counter.start()
    assert fresh_starts(counter) == 2


def test_never_means_never(counter: Container) -> None:
    counter.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"on": []})
    counter.stop()
    assert counter.state() == "EXITED"
    assert counter.property("Result") == "success"
    counter.start()
    assert fresh_starts(counter) == 2


def test_a_fresh_stop_is_fresh_once(counter: Container) -> None:
    counter.machine.run("torpor", "stop", "--fresh", counter.name)
    assert counter.state() == "EXITED"
    counter.start()
    assert fresh_starts(counter) == 2
    counter.stop()
    assert counter.state() == "READY"


def test_discard_forgets_the_memory(counter: Container) -> None:
    counter.stop()
    counter.machine.run("torpor", "discard", counter.name)
    images = f"/var/lib/torpor/{counter.name}/generations"
    assert counter.machine.run("ls", images).stdout == ""
    counter.start()
    assert fresh_starts(counter) == 2


def test_discard_leaves_a_running_container_alone(counter: Container) -> None:
    done = counter.machine.run("torpor", "discard", counter.name, check=False)
    assert done.returncode == 1
    assert "is running" in done.stderr
    assert fresh_starts(counter) == 1


def test_a_changed_definition_starts_fresh_and_keeps_the_images_aside(counter: Container) -> None:
    counter.stop()
    counter.define(rootfs=BUSYBOX, command=COMMAND, env={"NEW": "1"})
    counter.start()
    assert fresh_starts(counter) == 2
    assert "the definition changed" in counter.journal()
    aside = counter.machine.run("ls", f"/var/lib/torpor/{counter.name}/aside").stdout
    assert aside.split() == ["1"]


def test_a_changed_policy_or_comment_does_not_cost_the_memory(counter: Container) -> None:
    counter.stop()
    counter.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"keep": 2, "keep-logs": True})
    counter.start()
    assert fresh_starts(counter) == 1


def test_another_rootfs_in_the_same_place_starts_fresh(counter: Container) -> None:
    machine = counter.machine
    path = f"/srv/{counter.name}"
    make_busybox(machine, path)
    counter.machine.run("torpor", "stop", "--fresh", counter.name)
    counter.define(rootfs=path, command=COMMAND)
    counter.start()
    time.sleep(0.2)
    counter.stop()
    machine.run("mv", path, f"{path}.old")
    make_busybox(machine, path)
    counter.start()
    assert fresh_starts(counter) == 3
    assert "the rootfs changed" in counter.journal()
    machine.run("rm", "-rf", path, f"{path}.old")


def test_keep_keeps_past_generations(counter: Container) -> None:
    counter.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"keep": 2})
    for _ in range(3):
        counter.sleep_and_wake()
    counter.settle()
    kept = counter.machine.run("ls", f"/var/lib/torpor/{counter.name}/generations").stdout
    assert kept.split() == ["3"]
    counter.stop()
    kept = counter.machine.run("ls", f"/var/lib/torpor/{counter.name}/generations").stdout
    assert sorted(kept.split()) == ["3", "4"]


def test_logs_go_after_success_unless_they_are_wanted(counter: Container) -> None:
    machine = counter.machine
    state = f"/var/lib/torpor/{counter.name}"
    counter.stop()
    logs = machine.run("find", state, "-name", "*.log", "-o", "-path", "*/work/*").stdout
    assert logs == ""
    counter.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"keep-logs": True})
    counter.start()
    counter.stop()
    counter.start()
    logs = machine.run("find", state, "-name", "*.log").stdout
    assert sorted(logs.split()) == [f"{state}/last-dump.log", f"{state}/last-restore.log"]


@pytest.mark.parametrize("network", ["none", "host", {"bridge": "tor3", "subnet": "10.93.0.0/24"}])
def test_criu_asks_for_no_connections_that_are_tracked(counter: Container, network: object) -> None:
    machine = counter.machine
    counter.sleep_and_wake()  # the first CRIU of a boot looks at links, to know the kernel
    counter.machine.run("torpor", "stop", "--fresh", counter.name)
    counter.define(rootfs=BUSYBOX, command=COMMAND, network=network, checkpoint={"keep-logs": True})
    counter.start()
    time.sleep(0.2)
    counter.sleep_and_wake()
    log = machine.read(f"/var/lib/torpor/{counter.name}/last-dump.log")
    assert "Dumping FAILED" not in log and "Dumping finished successfully" in log
    assert "Dumping netns links" not in log  # dump_nf_ct() in criu/net.c says so
    assert fresh_starts(counter) == 2


def test_an_old_criu_is_refused_before_anything_is_frozen(counter: Container) -> None:
    machine = counter.machine
    machine.write("/opt/old/criu", "#!/bin/sh\necho 'Version: 3.10'\n", 0o755)
    counter.drop_in("path", "Environment=PATH=/opt/old:/usr/sbin:/usr/bin:/sbin:/bin")
    counter.stop()
    assert "checkpointing needs CRIU >= 4.0, found 3.10" in counter.journal()
    assert counter.state() == "EXITED"


def test_a_full_disk_is_noticed_before_anything_is_frozen(counter: Container) -> None:
    machine = counter.machine
    state = f"/var/lib/torpor/{counter.name}"
    # The state directory moves to a small file system, as an administrator might have it.
    machine.run("torpor", "stop", "--fresh", counter.name)
    machine.run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", state)
    try:
        counter.start()
        time.sleep(0.3)
        counter.stop()
        text = counter.journal()
        assert "cannot checkpoint" in text
        assert "are free, the images may need" in text
    finally:
        machine.run("umount", state)


def test_a_definition_broken_while_it_runs_costs_nothing(counter: Container) -> None:
    good = counter.definition
    counter.machine.write(f"/etc/torpor/{counter.name}.yaml", "rootfs: [\n")
    counter.stop()
    assert counter.state() == "READY"
    assert counter.systemctl("start", check=False) != 0
    assert counter.state() == "READY"
    counter.define(**good)
    counter.start()
    assert fresh_starts(counter) == 1


def test_a_shutdown_ends_it_for_real_where_the_definition_says_so(counter: Container) -> None:
    counter.define(rootfs=BUSYBOX, command=COMMAND, checkpoint={"on": ["stop"]})
    counter.machine.reboot()
    assert counter.status()["reason"] == "ended by shutdown"
    counter.start()
    assert fresh_starts(counter) == 2


def test_a_start_whose_inputs_did_not_change_reads_no_yaml(counter: Container) -> None:
    machine = counter.machine
    each = "cd /usr/lib/python3/dist-packages; for m in yaml pystemd pyroute2; do"
    machine.run("sh", "-ec", f"{each} mv $m $m.away; done")
    try:
        counter.stop()
        counter.start()
        counter.systemctl("restart")
        counter.define(rootfs=BUSYBOX, command=COMMAND, env={"NEW": "1"})
        assert counter.systemctl("restart", check=False) != 0
    finally:
        machine.run("sh", "-ec", f"{each} mv $m.away $m; done")


def test_a_dry_run_says_whether_it_would_sleep_and_leaves_it_running(counter: Container) -> None:
    done = counter.machine.run("torpor", "check", "--checkpoint", counter.name)
    assert "would sleep" in done.stdout
    assert counter.property("ActiveState") == "active"
    assert fresh_starts(counter) == 1
    counter.stop()
    counter.start()
    assert fresh_starts(counter) == 1


def test_a_bundle_of_somebody_else_sleeps_too_and_stays_as_it_is(machine: Machine) -> None:
    make_busybox(machine)
    bundle = make_bundle(machine, "/srv/bundle", BUSYBOX)
    before = machine.read(f"{bundle}/config.json")
    container = Container(machine, "of-others").define(bundle=bundle, command=COMMAND)
    try:
        container.start()
        time.sleep(0.3)
        container.stop()
        container.start()
        assert fresh_starts(container) == 1
        assert machine.read(f"{bundle}/config.json") == before
        container.stop()
        make_bundle(machine, bundle, BUSYBOX, lambda config: config.update(hostname="other"))
        container.start()
        assert fresh_starts(container) == 2
    finally:
        container.remove()


def test_without_its_criu_configuration_nothing_is_killed_unasked(counter: Container) -> None:
    machine = counter.machine
    conf = "/usr/share/torpor/criu.conf"
    machine.run("mv", conf, f"{conf}.away")
    try:
        counter.stop()
    finally:
        machine.run("mv", f"{conf}.away", conf)
    assert "criu.conf is missing" in counter.journal()
    assert counter.state() == "EXITED"


def test_a_stop_beside_a_reexecuted_systemd_still_sleeps(counter: Container) -> None:
    machine = counter.machine
    for _ in range(3):
        machine.run("systemctl", "stop", "--no-block", counter.unit)
        machine.run("systemctl", "daemon-reexec")
        counter.wait_for("inactive", timeout_s=30)
        assert counter.state() == "READY", counter.journal()
        counter.start()
    assert fresh_starts(counter) == 1


def test_memory_that_is_shared_does_not_count_for_each_process(counter: Container) -> None:
    # What the preflight asks for must not be more than the images can take.
    counter.machine.run("torpor", "stop", "--fresh", counter.name)
    children = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; "
    counter.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", children + COUNTER])
    state = f"/var/lib/torpor/{counter.name}"
    counter.machine.run("mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", state)
    try:
        counter.start()
        counter.stop()
        assert counter.state() == "READY", counter.journal()
        counter.start()
        counter.machine.run("torpor", "stop", "--fresh", counter.name)
    finally:
        counter.machine.run("umount", state)


def test_hooks_added_to_the_bundle_of_a_sleeper_cost_no_memory(machine: Machine) -> None:
    make_busybox(machine)
    bundle = make_bundle(machine, "/srv/hooked-asleep", BUSYBOX)
    container = Container(machine, "hooked-asleep").define(bundle=bundle, command=COMMAND)
    try:
        container.start()
        time.sleep(0.2)
        container.stop()
        machine.run("torpor", "hooks", "add", bundle)
        container.start()
        assert fresh_starts(container) == 1
    finally:
        container.remove()


def test_a_sleeper_whose_unit_moved_to_another_slice_wakes_there(counter: Container) -> None:
    counter.stop()
    counter.drop_in("slice", "Slice=moved.slice")
    counter.start()
    assert fresh_starts(counter) == 1
    pid = counter.property("MainPID")
    cgroup = counter.machine.run("grep", "^0::", f"/proc/{pid}/cgroup").stdout.strip()
    assert cgroup == f"0::/moved.slice/{counter.unit}.service/payload"
    counter.stop()
    assert counter.state() == "READY"


def test_a_real_stop_obeys_an_infinite_timeout(counter: Container) -> None:
    counter.drop_in("timeout", "TimeoutStopSec=infinity")
    counter.machine.run("torpor", "stop", "--fresh", counter.name)
    assert counter.property("Result") == "success"


def test_a_rootfs_that_criu_cannot_restore_is_refused_before_the_stop(machine: Machine) -> None:
    rootfs = make_busybox(machine, "/srv/read-only")
    machine.run("rmdir", f"{rootfs}/tmp")

    def seal(config: Config) -> None:
        config["root"]["readonly"] = True

    bundle = make_bundle(machine, "/srv/sealed", rootfs, seal)
    container = Container(machine, "sealed").define(bundle=bundle, command=COMMAND)
    try:
        container.start()
        assert "it cannot sleep: its rootfs is read-only" in container.journal()
        container.stop()
        assert container.state() == "EXITED"
        machine.run("mkdir", f"{rootfs}/tmp")
        machine.run("touch", f"{bundle}/config.json")
        container.start()
        container.stop()
        assert container.state() == "READY"
        container.start()
        assert container.property("StatusText").startswith("restored")
    finally:
        container.remove()


def map_users(config: Config) -> None:
    """Put a container into a user namespace whose root is nobody on the host."""
    linux = config["linux"]
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux.update(uidMappings=mapping, gidMappings=mapping)
    linux["namespaces"].append({"type": "user"})


def test_a_container_in_a_user_namespace_sleeps_and_wakes(machine: Machine) -> None:
    rootfs = make_busybox(machine, "/srv/mapped")
    machine.run("chown", "-hR", "100000:100000", rootfs)
    bundle = make_bundle(machine, "/srv/userns", rootfs, map_users)
    machine.run("sh", "-ec", "chmod 711 /srv /srv/mapped")
    container = Container(machine, "mapped").define(bundle=bundle, command=COMMAND)
    try:
        container.start()
        time.sleep(0.3)
        for _ in range(2):
            container.stop()
            assert container.state() == "READY", container.journal()
            container.start()
            assert container.property("StatusText").startswith("restored"), container.journal()
        assert fresh_starts(container) == 1
    finally:
        container.remove()
