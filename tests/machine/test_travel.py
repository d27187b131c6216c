"""A container that goes to another host, or gets another name, goes on exactly where it was."""

from collections.abc import Iterator

import pytest

from containers import COUNTER, Container, make_busybox
from machine import Machine

ARCHIVE = "/srv/box.tar.zst"


@pytest.fixture
def box(machine: Machine) -> Iterator[Container]:
    rootfs = make_busybox(machine)
    container = Container(machine, "box").define(rootfs=rootfs, command=["/bin/sh", "-c", COUNTER])
    container.start()
    yield container
    container.remove()


def test_a_rootfs_travels(box: Container) -> None:
    machine = box.machine
    box.stop()
    machine.run("torpor", "export", "box", ARCHIVE)
    machine.run("torpor", "import", "--trust", ARCHIVE, "other")
    other = Container(machine, "other")
    try:
        before = box.numbers()
        other.start()
        print(other.journal(), other.status())
        other.stop()
        assert other.numbers()[0] == before[-1] + 1
    finally:
        other.remove()
