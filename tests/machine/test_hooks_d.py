"""Hooks of oci-hooks(5): which are taken, when they run, and what a bad one costs."""

import json
import time
from collections.abc import Iterator

import pytest

from containers import BUSYBOX, COUNTER, Container, make_busybox, without_gap
from machine import Machine

COMMAND = ["/bin/sh", "-c", COUNTER]
PACKAGED, LOCAL = "/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"
HOOK, LOG = "/srv/test-hook", "/srv/test-hook.log"
LEFT_IN = "/run/torpor/hooked"
# Logs its second word, and the status that runc tells it.
SCRIPT = f"""#!/bin/sh
status=$(grep -o '"status": *"[a-z]*"' | cut -d'"' -f4)
echo "$1 $status" >>{LOG}
"""
ADD_VARIABLE = """#!/bin/sh
exec sed 's/"env": *\\[/&"FROM_HOOK=yes",/'
"""


@pytest.fixture
def container(machine: Machine) -> Iterator[Container]:
    """One that no other test's hooks are about: by its annotation."""
    make_busybox(machine)
    machine.write(HOOK, SCRIPT, 0o755)
    made = Container(machine, f"hooked{time.monotonic_ns()}")
    made.define(rootfs=BUSYBOX, command=COMMAND, annotations={"org.example.test": "web"})
    yield made
    machine.run("sh", "-c", f"rm -f {PACKAGED}/t-*.json {LOCAL}/t-*.json {HOOK}*")
    made.remove()


def hook(
    container: Container,
    name: str,
    *,
    directory: str = PACKAGED,
    when: dict[str, object] | None = None,
    stages: tuple[str, ...] = ("createRuntime", "poststop"),
    path: str = HOOK,
) -> None:
    """Install t-NAME.json, which logs NAME."""
    text = {
        "version": "1.0.0",
        "hook": {"path": path, "args": ["hook", name]},
        "when": when or {"annotations": {"^org.example.test$": "^web$"}},
        "stages": stages,
    }
    container.machine.write(f"{directory}/t-{name}.json", json.dumps(text))


def log(container: Container) -> list[str]:
    return container.machine.run("sh", "-c", f"cat {LOG} 2>/dev/null || true").stdout.splitlines()


CONDITIONS: list[tuple[dict[str, object], bool]] = [
    ({"always": True}, True),
    ({"annotations": {"^org.example.*": "^w"}}, True),
    ({"annotations": {"^org.example.*": "^x"}}, False),
    ({"commands": ["^/bin/(ba)?sh$"]}, True),
    ({"commands": ["^/bin/bash$"]}, False),
    ({"always": True, "commands": ["^/bin/bash$"]}, False),
    ({"hasBindMounts": True}, False),
]


def test_those_whose_conditions_are_met_run_in_order_from_start_to_end(
    container: Container,
) -> None:
    for number, (when, _) in enumerate(CONDITIONS):
        hook(container, f"{9 - number}", when=when)
    taken = [str(9 - number) for number, (_, taken) in enumerate(CONDITIONS) if taken][::-1]
    container.start()
    assert log(container) == [f"{name} creating" for name in taken]
    container.machine.run("torpor", "stop", "--fresh", container.name)
    assert log(container)[len(taken) :] == [f"{name} stopped" for name in taken]


def test_a_file_in_etc_replaces_the_packaged_one_of_its_name(container: Container) -> None:
    hook(container, "same", path="/bin/false")
    hook(container, "same", directory=LOCAL, stages=("poststop",))
    container.start()
    container.machine.run("torpor", "stop", "--fresh", container.name)
    assert log(container) == ["same stopped"]


@pytest.mark.parametrize("stage", ["poststart", "createRuntime"])
def test_with_or_without_hooks_for_it_its_program_begins(container: Container, stage: str) -> None:
    hook(container, "one", stages=(stage,))
    container.start()
    assert [line.split()[0] for line in log(container)] == ["one"]
    said = json.loads(container.machine.run("runc", "state", container.name).stdout)
    assert said["status"] == "running"
    time.sleep(0.2)
    assert container.numbers()


def test_a_hook_after_the_start_that_fails_is_no_start(container: Container) -> None:
    hook(container, "one", stages=("poststart",), path="/bin/false")
    assert container.systemctl("start", check=False) != 0
    said = container.journal()
    assert "error running" in said and "Traceback" not in said  # runc 1.1 runs it on create
    assert (
        container.machine.run("runc", "list", "--quiet").stdout.split().count(container.name) == 0
    )


def test_a_hook_runs_again_at_each_wake(container: Container) -> None:
    hook(container, "each", stages=("createRuntime",))
    container.start()
    time.sleep(0.2)
    for _ in range(2):
        container.stop()
        assert container.state() == "READY", container.journal()
        container.start()
        assert container.property("StatusText").startswith("restored"), container.journal()
    assert [line.split()[0] for line in log(container)] == ["each"] * 3
    time.sleep(0.2)
    assert without_gap(container.numbers())


def test_a_filter_before_the_creation_changes_the_environment(container: Container) -> None:
    container.machine.write(HOOK, ADD_VARIABLE, 0o755)
    hook(container, "filter", stages=("precreate",))
    container.start()
    time.sleep(0.2)
    container.stop()
    container.start()
    environ = container.machine.run("cat", f"/proc/{container.property('MainPID')}/environ").stdout
    assert "FROM_HOOK=yes" in environ.split("\0")
    time.sleep(0.2)
    assert without_gap(container.numbers())


BAD = [
    ("{", "is not JSON"),
    ('{"version": "9.9.9"}', "version"),
    ('{"version": "1.0.0", "hook": {"path": "/nowhere/hook"}, "when": {"always": true}, '
     '"stages": ["poststop"]}', "/nowhere/hook"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "word"), BAD)
def test_a_bad_file_refuses_a_start_and_costs_a_sleeper_nothing(
    container: Container, text: str, word: str
) -> None:
    machine, path = container.machine, f"{LOCAL}/t-bad.json"
    hook(container, "good", stages=("createRuntime",))
    container.start()
    time.sleep(0.2)
    machine.write(path, text)
    container.stop()
    assert container.state() == "READY", container.journal()
    assert container.systemctl("start", check=False) != 0
    said = container.journal()
    assert f"{path}: " in said and word in said and "Traceback" not in said
    assert container.state() == "READY"
    machine.run("rm", path)
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    time.sleep(0.2)
    assert without_gap(container.numbers())


def test_a_filter_that_fails_costs_a_sleeper_nothing(container: Container) -> None:
    container.start()
    time.sleep(0.2)
    container.stop()
    container.machine.write(HOOK, "#!/bin/sh\necho no config today >&2; exit 3\n", 0o755)
    hook(container, "filter", stages=("precreate",))
    assert container.systemctl("start", check=False) != 0
    assert "failed with exit status 3: no config today" in container.journal()
    assert container.state() == "READY"
    container.machine.write(HOOK, ADD_VARIABLE, 0o755)
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    time.sleep(0.2)
    assert without_gap(container.numbers())


def test_a_hook_that_fails_at_the_wake_costs_a_sleeper_nothing(container: Container) -> None:
    hook(container, "once", stages=("createRuntime",))
    container.start()
    time.sleep(0.2)
    container.stop()
    container.machine.write(HOOK, "#!/bin/sh\necho not today >&2; exit 3\n", 0o755)
    assert container.systemctl("start", check=False) != 0
    assert "exit status 3, stdout: , stderr: not today: it sleeps on" in container.journal()
    assert LEFT_IN not in container.machine.run("findmnt", "-rno", "TARGET").stdout
    assert container.state() == "READY", container.journal()
    container.machine.write(HOOK, SCRIPT, 0o755)
    container.start()
    assert container.property("StatusText").startswith("restored"), container.journal()
    time.sleep(0.2)
    assert without_gap(container.numbers())
