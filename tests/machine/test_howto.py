"""The how-tos do what they say, typed as they stand there."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import guest
import programs
from containers import Container
from documents import commands
from machine import Machine

HOWTO = Path(__file__).parents[2] / "docs/howto"
# What a person has, and the machine has not.
PREAMBLE = """
curl() {
    set +x
    for url; do :; done
    for _ in $(seq 30); do busybox wget -qO- "$url" && return; sleep 1; done
}
"""
STORED = f"mkdir -p {{place}}; mountpoint -q {{place}} || mount --bind {programs.PLACE} {{place}}"
BUILT = {  # a tree from Debian's archive, which the machine cannot reach, is there already
    "redis-server,redis-tools": STORED,
    "openjdk-21-jre-headless": STORED,
    "systemd,systemd-sysv,dbus,cron": f"[ {{place}} = {guest.PLACE} ]",
}
TREE = re.compile(
    r"^mmdebstrap --variant=minbase --include=(\S+) trixie (\S+)$", flags=re.MULTILINE
)
BETWEEN_S = 2.5  # a person takes longer from one command to the next


def script(page: str, section: str = "") -> str:
    """The commands of a page, or of a section of it, at a person's pace."""
    typed = commands(HOWTO / f"{page}.md", section)
    typed = TREE.sub(lambda made: BUILT[made[1]].format(place=made[2]), typed)
    return typed.replace("systemctl stop torpor", f"sleep {BETWEEN_S}; systemctl stop torpor")


@pytest.fixture(scope="module")
def host() -> Iterator[Machine]:
    """A machine that has the programs of the how-tos."""
    tree = programs.build_programs()
    with Machine(nspawn_options=[f"--bind-ro={tree}:{programs.PLACE}"]) as booted:
        yield booted


def follow(host: Machine, typed: str) -> str:
    return host.run("bash", "-euxc", PREAMBLE + typed, timeout=300).stdout


def test_redis_keeps_its_keys_and_goes_elsewhere(host: Machine) -> None:
    said = follow(host, script("redis"))
    assert said.splitlines()[-1] == "hello"
    assert "redis-server" in said
    assert Container(host, "cache").property("StatusText").startswith("restored")
    moved = follow(host, script("moving", "As a file"))
    assert "of torpor" in moved or "redis-server" in moved
    copy = Container(host, "cache2")
    assert copy.property("StatusText").startswith("restored"), copy.journal()
    assert host.run("torpor", "exec", "cache2", "redis-cli", "get", "greeting").stdout == "hello\n"
    copy.remove()
    Container(host, "cache").remove()


def test_a_jvm_answers_when_it_woke(host: Machine) -> None:
    said = follow(host, script("jvm"))
    assert said.count("13.") == 2
    shop = Container(host, "shop")
    assert shop.property("StatusText").startswith("restored"), shop.journal()
    assert "asleep" in said.rpartition("13.")[2] or "READY" in said.rpartition("13.")[2]
    shop.remove()


def test_a_system_sleeps_with_its_services(host: Machine) -> None:
    said = follow(host, script("systemd"))
    assert "running\n" in said and "inactive\n" in said
    assert "Started cron.service" in said.rpartition("inactive\n")[2]
    Container(host, "lab").remove()


def test_a_network_is_there_again(host: Machine) -> None:
    said = follow(host, script("networks"))
    assert said.count("hello\n") == 2
    front = Container(host, "front")
    assert front.property("ActiveState") == "active"
    front.sleep_and_wake()
    assert front.property("StatusText").startswith("restored"), front.journal()
    front.remove()


def test_programs_count_on_under_the_next_kernel(host: Machine) -> None:
    before, reboot, after = script("kernel-upgrade").partition("systemctl reboot\n")
    assert reboot
    assert "would sleep" in follow(host, before)
    time.sleep(BETWEEN_S)
    host.reboot()
    time.sleep(BETWEEN_S)
    said = follow(host, after)
    assert "shutdown" in said
    work = Container(host, "work")
    numbers = [int(line) for line in work.journal().splitlines() if line.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 4
    work.remove()


def test_each_how_to_is_linked_from_the_readme() -> None:
    readme = (HOWTO.parents[1] / "README.md").read_text()
    for page in HOWTO.iterdir():
        assert f"(docs/howto/{page.name})" in readme
