"""The README's tour does what it says, typed as it stands there."""

import re
import time
from pathlib import Path

import guest
from containers import Container, make_busybox
from documents import commands
from machine import Machine

README = Path(__file__).parents[2] / "README.md"
TOUR = "Your first container"
IMAGES = "A slice, limits and an image"
SNAPSHOTS = "Going back"
NETWORK = "A network of its own"
SYSTEMD = "systemd in the container"
TRAVEL = "To another host"


def test_the_first_container_counts_on_after_its_sleep(machine: Machine) -> None:
    hello = Container(machine, "hello")
    try:
        # A person takes a second between two commands; so does the script, for the counter.
        script = commands(README, TOUR).replace("systemctl stop", "sleep 2.5; systemctl stop")
        done = machine.run("bash", "-euxc", script)
        assert "is right" in done.stdout
        assert re.search(r"hello +asleep", done.stdout)
        assert 'Status: "restored generation 1' in done.stdout
        time.sleep(1.2)
        numbers = [line for line in hello.journal().splitlines() if line.isdigit()]
        assert len(numbers) > 3
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
        machine.run("torpor", "stop", "--fresh", "hello")
    finally:
        hello.remove()
        machine.run("rm", "-rf", "/srv/hello")


def test_the_tour_of_images_runs_as_it_stands(machine: Machine) -> None:
    make_busybox(machine, "/srv/hello")
    cache, copy = Container(machine, "cache"), Container(machine, "cache-copy")
    try:
        done = machine.run("bash", "-euxc", commands(README, IMAGES))
        assert "/torpor.slice/torpor-caches.slice/torpor@cache.service" in done.stdout
        plan = machine.read("/var/lib/torpor/cache/inputs").splitlines()
        assert {"limit=MemoryMax=512M", "limit=TasksMax=50"} <= set(plan)
        cache.stop()
        cache.start()
        assert cache.state() == "RUNNING"
        assert machine.run("test", "-e", "/srv/hello/tmp/count", check=False).returncode
        assert machine.read("/var/lib/torpor/cache/storage/upper/tmp/count").strip().isdigit()
        done = machine.run("bash", "-euxc", commands(README, SNAPSHOTS))
        assert re.search(r"^Snapshot: +2, ", done.stdout, re.MULTILINE)
        assert cache.property("StatusText").startswith("restored generation 4")
        cache.sleep_and_wake()
        assert cache.property("StatusText").startswith("restored generation 5")
        machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", cache.unit)
        cache.wait_for("failed")
        cache.start()
        assert "back to snapshot 2" in cache.journal()
        assert cache.property("StatusText").startswith("restored generation 6")
        machine.run("bash", "-euxc", commands(README, TRAVEL))
        assert copy.property("StatusText").startswith("restored"), copy.journal()
    finally:
        machine.run("systemctl", "disable", "--now", "torpor-snapshot@cache.timer")
        cache.remove()
        copy.remove()
        machine.run("rm", "-f", "/srv/cache.tar.zst")
        machine.run("rm", "-rf", "/srv/hello", "/var/lib/torpor/.volumes/cache-data")


def test_the_tour_of_networks_runs_as_it_stands(machine: Machine) -> None:
    make_busybox(machine, "/srv/hello")
    site = Container(machine, "site")
    try:
        done = machine.run("bash", "-euxc", commands(README, NETWORK))
        assert done.stdout.count("from the container\n") == 2
        assert len(set(re.findall(r"10\.83\.0\.[0-9]+/24", done.stdout))) == 1
        assert site.property("StatusText").startswith("restored"), site.journal()
        machine.run("torpor", "stop", "--fresh", "site")
        assert "torpor0" not in machine.run("ip", "-br", "link").stdout
    finally:
        site.remove()
        machine.run("rm", "-rf", "/srv/hello")


def test_the_tour_of_systemd_runs_as_it_stands(machine: Machine) -> None:
    box = Container(machine, "box")
    made, _, script = commands(README, SYSTEMD).strip().partition("\n")
    assert made.startswith("mmdebstrap ")
    assert made.endswith(guest.PLACE), "the machine has such a tree, and no network"
    try:
        done = machine.run("bash", "-euxc", script)
        # Debian unstable has no number.
        assert re.search(r"^box +container torpor +debian +(13|-)", done.stdout, re.MULTILINE)
        assert "\nrunning\n" in done.stdout
        services, _, journal = done.stdout.rpartition("UNIT ")[2].partition(" listed.")
        assert "dbus.service" in services
        assert "cron.service" not in services, "it was stopped before the container slept"
        assert "Stopped cron.service" in journal
        assert box.property("StatusText").startswith("restored"), box.journal()
    finally:
        box.remove()


def test_the_sample_definition_is_installed_and_right(machine: Machine) -> None:
    sample = machine.run("cat", "/usr/share/doc/torpor/examples/torpor.yaml.sample").stdout
    make_busybox(machine, "/srv/containers/web")
    machine.write("/etc/torpor/sample.yaml", sample)
    try:
        assert "is right" in machine.run("torpor", "check", "sample").stdout
    finally:
        machine.run("rm", "-rf", "/srv/containers", "/etc/torpor/sample.yaml")


def test_every_unit_and_document_is_found_where_the_others_point(machine: Machine) -> None:
    listed = machine.run("dpkg", "-L", "torpor").stdout
    unit = machine.read("/usr/lib/systemd/system/torpor@.service")
    for page, section in re.findall(r"man:([\w.@-]+)\((\d)\)", unit):
        assert f"/man{section}/{page}.{section}.gz" in listed
