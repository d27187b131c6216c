"""One booted machine for all tests of a session, and its journal in the report of a failure."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from inside import excerpt, hanging
from machine import Machine

JOURNAL = ("journalctl", "--boot", "--lines=600", "--no-pager", "--output=short-monotonic")


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A machine with the newest package of dist/, shared: a test removes what it makes."""
    with Machine() as booted:
        yield booted


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot boot a machine."""
    if os.geteuid():
        for item in items:
            if "machine" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="booting a machine needs root"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Attach the journal of the machine that a failed test used."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    machines = [value for value in getattr(item, "funcargs", {}).values() if type(value) is Machine]
    there = [used for used in machines if used.directory.exists()]  # else the last test is over
    for used in there if report.failed else []:
        report.sections.append((f"journal of {used.name}", _journal(used)))


def _journal(used: Machine) -> str:
    if not used.leader:
        return used.console[-8000:]
    try:
        return excerpt(used.run(*JOURNAL, check=False, timeout=60).stdout)
    except subprocess.TimeoutExpired:
        return f"It does not answer. What hangs in the kernel:\n{hanging()}"
