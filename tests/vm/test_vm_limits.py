"""Limits of a definition are the kernel's."""

import time
from collections.abc import Callable, Iterator

import pytest

from containers import BUSYBOX, Container, make_busybox

from .vm import Vm

FORK = "for number in $(seq 60); do sleep 1000 & done"

Define = Callable[..., Container]


@pytest.fixture
def define(vm: Vm) -> Iterator[Define]:
    """Makes containers that run a script and have a definition's resources:, none to begin with."""
    make_busybox(vm)
    vm.run("sh", "-c", f"ln -sf busybox {BUSYBOX}/bin/tail; ln -sf busybox {BUSYBOX}/bin/seq")
    made = []

    def define(script: str, **resources: str | int) -> Container:
        container = Container(vm, f"limited-{time.monotonic_ns()}")
        made.append(container)
        limit(container, script, **resources)
        vm.run("systemctl", "daemon-reload")
        return container

    yield define
    for container in made:
        container.remove()


def limit(container: Container, script: str, **resources: str | int) -> None:
    limits = {name.replace("_", "-"): value for name, value in resources.items()}
    container.define(rootfs=BUSYBOX, command=["/bin/sh", "-c", script], resources=limits)


def test_no_more_tasks_than_its_own_are_made(define: Define) -> None:
    container = define(f"({FORK}); echo ended", tasks_max=30)
    container.start()
    container.wait_for("inactive", timeout_s=60)
    assert "can't fork: Resource temporarily unavailable" in container.journal()
