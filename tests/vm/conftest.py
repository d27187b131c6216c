"""One virtual machine for all tests of a session, and its journal in the report of a failure."""

import os
import shutil
from collections.abc import Iterator

import pytest

import image
from inside import excerpt
from machine import MachineError

from .vm import Vm, require_host

JOURNAL = ("journalctl", "--boot", "--lines=600", "--no-pager", "--output=short-monotonic")


@pytest.fixture(scope="session")
def vm() -> Iterator[Vm]:
    """A virtual machine with the newest package of dist/, shared: a test removes what it makes."""
    try:
        require_host()
    except image.ImageError as fault:
        if shutil.which("qemu-system-x86_64"):
            raise
        pytest.skip(f"no qemu: {fault}")
    with Vm() as booted:
        yield booted


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot build a machine."""
    if os.geteuid():
        for item in items:
            if "vm" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="building a machine's disk needs root"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Attach the journal of the machine that a failed test used."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    used = getattr(item, "funcargs", {}).get("vm")
    if not report.failed or not isinstance(used, Vm):
        return
    try:
        journal = used.run(*JOURNAL, check=False).stdout
    except (AssertionError, MachineError):  # it is down
        journal = used.console[-8000:]
    report.sections.append((f"journal of {used.name}", excerpt(journal)))
