"""Packages and `make install`: no container is worse off for them, and all install the same."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import torpor
from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from inside import CommandFailed
from machine import Machine, newest_deb

TOP = Path(__file__).parents[2]
AUTOPKGTEST = TOP / "packaging/debian/tests/sleep-and-wake"
VERSION = torpor.__version__
NEXT = f"{VERSION}+next"
OF_DEBIAN = re.compile(r"/usr/share/(doc/torpor/(copyright|changelog.*)|lintian/.*)")
FILES = 'dpkg -L torpor | while read -r path; do [ -d "$path" ] || echo "$path"; done'


def make(*words: str) -> str:
    argv = ["make", "--no-print-directory", *words]
    done = subprocess.run(argv, cwd=TOP, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def put(machine: Machine, source: Path) -> str:
    """Copy a file of the host's into the machine; returns where it is there."""
    place = f"/var/tmp/{source.name}"
    shutil.copyfile(source, machine.root / place.lstrip("/"))
    return place


@pytest.fixture(scope="module")
def own() -> Iterator[Machine]:
    """A machine whose package may be changed."""
    with Machine(with_guest=False) as booted:
        make_busybox(booted)
        yield booted


@pytest.fixture
def packaged(own: Machine) -> str:
    """The package as it was built, installed; where it is in the machine."""
    deb = newest_deb()
    assert deb
    place = put(own, deb)
    own.run("apt-get", "install", "--yes", "--allow-downgrades", "--reinstall", place)
    return place


@pytest.fixture
def newer(own: Machine, packaged: str) -> str:
    """The same as a later version."""
    script = """
        rm -rf /var/tmp/next && dpkg-deb -R "$1" /var/tmp/next
        sed -i "s/^Version: .*/Version: $2/" /var/tmp/next/DEBIAN/control
        dpkg-deb -b /var/tmp/next /var/tmp/next.deb
    """
    own.run("sh", "-ec", script, "sh", packaged, NEXT)
    return "/var/tmp/next.deb"


@pytest.fixture
def counters(own: Machine, packaged: str) -> Iterator[list[Container]]:
    """One that runs and one that sleeps."""
    number = time.monotonic_ns()
    made = [Container(own, f"{name}{number}") for name in ("awake", "asleep")]
    for container in made:
        container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER])
        container.start()
    time.sleep(0.3)
    made[1].stop()
    yield made
    if own.run("sh", "-c", "command -v torpor", check=False).returncode:
        own.run("apt-get", "install", "--yes", packaged)
    for container in made:
        container.remove()


def goes_on(container: Container) -> None:
    """It sleeps and wakes, and has never lost its memory."""
    container.sleep_and_wake()
    time.sleep(0.3)
    assert container.property("StatusText").startswith("restored"), container.journal()
    assert without_gap(container.numbers()), container.journal()


def test_an_upgrade_and_a_downgrade_leave_containers_as_they_are(
    own: Machine, counters: list[Container], packaged: str, newer: str
) -> None:
    awake, asleep = counters
    pid = awake.property("MainPID")
    for package in (newer, packaged):
        own.run("apt-get", "install", "--yes", "--allow-downgrades", package)
        assert awake.property("MainPID") == pid
        assert awake.property("ActiveState") == "active"
        assert awake.property("NeedDaemonReload") == "no"
        assert asleep.state() == "READY"
    asleep.start()
    for container in counters:
        goes_on(container)


def test_a_downgrade_below_newer_records_is_refused_and_changes_nothing(
    own: Machine, counters: list[Container], packaged: str, newer: str
) -> None:
    _, asleep = counters
    own.run("apt-get", "install", "--yes", newer)
    path = f"/var/lib/torpor/{asleep.name}/state"
    text = own.read(path)
    own.write(path, text.replace("torpor-state=1\n", "torpor-state=2\n"))
    with pytest.raises(CommandFailed, match=f"{path} is of a newer torpor, in format 2"):
        own.run("dpkg", "--install", packaged)
    shown = own.run("dpkg-query", "--show", "--showformat=${Status} ${Version}", "torpor").stdout
    assert shown == f"install ok installed {NEXT}"
    assert asleep.systemctl("start", check=False) != 0
    assert "written by a newer torpor, in format 2; this one knows 1" in asleep.journal()
    assert "newer torpor" in own.run("torpor", "status", asleep.name, check=False).stdout
    with pytest.raises(CommandFailed, match="install a torpor that knows it"):
        own.run("torpor", "discard", asleep.name)
    assert own.read(path) == text.replace("torpor-state=1\n", "torpor-state=2\n")
    own.write(path, text)
    asleep.start()
    goes_on(asleep)


def test_a_removal_puts_to_sleep_what_runs_and_another_installation_wakes_it(
    own: Machine, counters: list[Container], packaged: str
) -> None:
    own.run("apt-get", "remove", "--yes", "torpor")
    record = own.read(f"/var/lib/torpor/{counters[0].name}/state")
    assert record.startswith("torpor-state=1\nstate=READY\n")
    own.run("apt-get", "install", "--yes", packaged)
    for container in counters:
        container.start()
        goes_on(container)


def test_a_purge_asks_nothing_and_takes_the_memory_but_no_definition(
    own: Machine, counters: list[Container], packaged: str
) -> None:
    own.run("apt-get", "purge", "--yes", "torpor", env={"DEBIAN_FRONTEND": "readline"})
    assert own.run("ls", "/var/lib/torpor", check=False).returncode
    definitions = {f"{container.name}.yaml" for container in counters}
    assert definitions <= set(own.run("ls", "/etc/torpor").stdout.split())
    own.run("apt-get", "install", "--yes", packaged)
    counters[1].start()
    assert counters[1].property("StatusText").startswith("started fresh")


def test_the_package_passes_its_own_test(own: Machine, packaged: str) -> None:
    script = put(own, AUTOPKGTEST)
    own.run("mkdir", "-p", "/var/tmp/autopkgtest")
    own.run("sh", script, env={"AUTOPKGTEST_TMP": "/var/tmp/autopkgtest"})


def test_what_make_install_installs_works_without_a_package_and_goes_without_a_trace(
    own: Machine, packaged: str
) -> None:
    files = own.run("sh", "-c", FILES).stdout.split()
    own.run("apt-get", "purge", "--yes", "torpor")
    before = own.run("find", "/usr/local", "/etc/containers", "-not", "-type", "d").stdout
    make("install", f"DESTDIR={own.root}", "PYTHON=/usr/bin/python3")
    counter = Container(own, "local")
    try:
        own.run("systemctl", "daemon-reload")
        place = own.run("systemctl", "show", "-P", "FragmentPath", counter.unit).stdout
        assert place == "/usr/local/lib/systemd/system/torpor@.service\n"
        own.run("torpor", "doctor")
        network = {"bridge": "tor7", "subnet": "10.77.0.0/24"}
        counter.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", COUNTER], network=network)
        counter.start()
        time.sleep(0.3)
        goes_on(counter)
        own.run("journalctl", "--update-catalog")
        assert "Container @TORPOR_NAME@ woke" in own.run("journalctl", "--list-catalog").stdout
        assert "/usr/libexec/torpor" not in own.run("torpor", "render", "local").stdout
        again = {bare(path.replace("/usr/local/", "/usr/")) for path in installed(own)}
        assert {bare(path) for path in files if not OF_DEBIAN.fullmatch(path)} == again
    finally:
        own.run("torpor", "stop", "--fresh", "local", check=False)
        own.run("rm", "-rf", "/var/lib/torpor", "/etc/torpor/local.yaml")
        make("uninstall", f"DESTDIR={own.root}")
    assert own.run("find", "/usr/local", "/etc/containers", "-not", "-type", "d").stdout == before
    own.run("apt-get", "install", "--yes", packaged)


def test_what_is_uninstalled_is_torpors_alone(tmp_path: Path) -> None:
    home = tmp_path / "torpor-home"
    (home / "share/doc").mkdir(parents=True)
    (home / "share/doc/torpor-notes").write_text("mine")
    words = (f"PREFIX={home}", "DESTDIR=/", f"HOOKSDIR={home}/hooks.d")
    make("install", *words)
    make("install", *words)
    assert (home / "libexec/torpor/start").stat().st_mode & 0o111
    launcher = (home / "bin/torpor").read_text()
    assert f'"{home}/lib/python3/dist-packages", "' in launcher
    assert not list(home.rglob("*.new"))
    make("uninstall", *words)
    left = [path.name for path in home.rglob("*") if path.is_file()]
    assert left == ["torpor-notes"]
    assert not list(home.rglob("torpor"))


def installed(machine: Machine) -> list[str]:
    """What is below /usr/local and in the hooks' directory, but for what Python compiled."""
    places = ("/usr/local", "/etc/containers/oci/hooks.d")
    found = machine.run("find", *places, "-type", "f", "-path", "*torpor*").stdout.split()
    return [path for path in found if "__pycache__" not in path]


def bare(path: str) -> str:
    """Without what differs from one system to the other."""
    path = re.sub(r"^/etc/containers", "/usr/share/containers", path)
    path = re.sub(r"^/usr/lib/python3/(site|dist)-packages/", "python/", path)
    path = path.replace("/site-functions/", "/vendor-completions/")
    return path.removesuffix(".gz")


def test_the_rpm_has_what_the_debian_package_has() -> None:
    make("rpm", "deb")
    rpm = TOP / f"dist/torpor-{VERSION}-1.noarch.rpm"
    deb = newest_deb()
    assert deb
    listed = ["rpm", "--query", "--package", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]"]
    ours = output(*listed, str(rpm))
    theirs = output("dpkg-deb", "--contents", str(deb))
    by_rpm = {bare(line.split()[1]): line[:10] for line in ours if line[0] != "d"}
    by_dpkg = {bare(line.split()[5][1:]): line[:10] for line in theirs if line[0] != "d"}
    assert {path: mode for path, mode in by_dpkg.items() if not OF_DEBIAN.fullmatch(path)} == {
        path: mode for path, mode in by_rpm.items() if "/licenses/" not in path
    }


def output(*words: str) -> list[str]:
    return subprocess.run(words, text=True, capture_output=True, check=True).stdout.splitlines()


def test_the_command_is_there_after_pip_installed_it_into_an_environment(tmp_path: Path) -> None:
    make("wheel")
    wheel = TOP / f"dist/torpor-{VERSION}-py3-none-any.whl"
    environment = tmp_path / "environment"
    output(sys.executable, "-m", "venv", "--system-site-packages", str(environment))
    pip = (str(environment / "bin/pip"), "install", "--quiet", "--no-index", "--no-deps")
    # Debian 12, where this may run, has 3.11.
    output(*pip, "--ignore-requires-python", str(wheel))
    assert output(str(environment / "bin/torpor"), "--version") == [f"torpor {VERSION}"]
    script = "from torpor import definition, record; print(record.FORMAT)"
    assert output(str(environment / "bin/python"), "-Ic", script) == ["1"]
