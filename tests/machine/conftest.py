"""A booted machine for all tests of a session, and its journal in the report of a failure."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from inside import HungError, excerpt, hanging
from machine import Machine

JOURNAL = ("journalctl", "--boot", "--lines=600", "--no-pager", "--output=short-monotonic")


class Supply:
    """The booted machine; another one when that does not answer any more."""

    def __init__(self) -> None:
        self._machine: Machine | None = None

    def answering(self) -> Machine:
        """With the newest package of dist/."""
        if self._machine and self._machine.hung:
            self.close()
        self._machine = self._machine or Machine().__enter__()
        return self._machine

    def close(self) -> None:
        if self._machine:
            self._machine.close()
        self._machine = None


@pytest.fixture(scope="session")
def supply() -> Iterator[Supply]:
    one = Supply()
    yield one
    one.close()


@pytest.fixture(scope="module")
def machine(supply: Supply) -> Machine:
    """A machine with the newest package of dist/, shared: a test removes what it makes."""
    return supply.answering()


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
    except HungError as error:
        return str(error)
