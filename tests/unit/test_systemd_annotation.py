"""Which containers of other engines the systemd hook is for, and what it imports to know it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torpor import annotations, go_regexp, hooks_file, oci_hook, systemd_mode
from torpor.errors import DefinitionError

TOP = Path(__file__).resolve().parents[2]
HOOKS_D = TOP / "packaging/hooks.d"
KEY = "io.torpor.systemd"
HEAVY = frozenset(
    ("argparse", "ctypes", "json", "logging", "pathlib", "pystemd", "re", "subprocess", "typing")
)
RUN = """
import sys
sys.path.insert(0, {library!r})
import os
def end(status):
    print(status, *sys.modules, flush=True)
    leave(status)
leave, os._exit = os._exit, end
import torpor.hooks.systemd as hook
hook.main()
"""


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, systemd_mode.AUTO),
        ({KEY: "true"}, systemd_mode.ALWAYS),
        ({KEY: "false"}, systemd_mode.NEVER),
    ],
)
def test_the_annotation_decides_before_the_command(given: dict[str, str], mode: str) -> None:
    assert annotations.systemd(given) == mode


@pytest.mark.parametrize("value", ["", "yes", "True", "1", "always", "x\n\x1b[2J" * 99])
def test_any_other_value_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(DefinitionError, match="must be true or false") as refusal:
        annotations.systemd({KEY: value})
    assert refusal.value.message.isprintable() and len(refusal.value.message) < 400


def told(**keys: object) -> str:
    state = {"ociVersion": "1.0", "id": "web", "status": "creating", "pid": 7, "bundle": "/none"}
    return json.dumps(state | keys)


def run(library: Path, state: str) -> tuple[set[str], str]:
    """The hook to its end: its status and the modules that it had loaded, and what it said."""
    script = RUN.format(library=str(library))
    command = [sys.executable, "-ISBc", script]
    done = subprocess.run(command, input=state, text=True, capture_output=True, check=False)
    return set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    "keys",
    [
        {"annotations": {KEY: "false"}},
        {"annotations": {KEY: "true"}, "status": "stopped"},  # it is being restored
    ],
)
def test_a_container_that_it_is_not_for_costs_nothing(
    library: Path, keys: dict[str, object]
) -> None:
    modules, said = run(library, told(**keys))
    assert "0" in modules and not said
    assert not modules & HEAVY


def test_a_container_with_another_command_is_left_alone(library: Path, tmp_path: Path) -> None:
    config = {"ociVersion": "1.0.2", "root": {"path": "none"}, "process": {"args": ["/bin/sleep"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    modules, said = run(library, told(bundle=str(tmp_path), pid=os.getpid()))
    assert "0" in modules and not said
    assert "ctypes" not in modules


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("", "it is not whole JSON"),
        (told(pid=0), "the container has no process"),
        (told(pid=-1), "its pid is none"),
        (told(), "/none/config.json: cannot read the bundle"),
        (told(annotations={KEY: "perhaps"}), "must be true or false"),
    ],
)
def test_a_wrong_state_is_one_message(library: Path, state: str, words: str) -> None:
    modules, said = run(library, state)
    assert "1" in modules
    first, *hints = said.splitlines()
    assert words in first and all(line.startswith("  ") for line in hints)


def test_the_files_of_hooks_d_are_read_and_that_by_command_is_disabled() -> None:
    by_annotation, by_command = (
        oci_hook.parse(file.name, file.read_bytes())
        for file in (
            HOOKS_D / "50-torpor-systemd.json",
            HOOKS_D / "50-torpor-systemd-command.json",
        )
    )
    assert by_annotation.stages == by_command.stages == ("createRuntime",)
    assert by_annotation.when.annotations and by_annotation.when.always is None
    assert by_command.when.always is False


@pytest.mark.parametrize(
    "program",
    [
        *("/sbin/init", "/usr/sbin/init", "/bin/init", "/usr/local/sbin/init", "/lib/init"),
        *("/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/sbin/systemd", "systemd"),
        *("/bin/sleep", "/dev/init", "/sbin/init-not", "/opt/systemd-thing", "init"),
    ],
)
def test_the_patterns_by_command_are_those_of_the_hook(program: str) -> None:
    content = (HOOKS_D / "50-torpor-systemd-command.json").read_bytes()
    patterns = oci_hook.parse("file", content).when.commands
    matches = any(go_regexp.matches(pattern, program) for pattern in patterns)
    assert matches or not systemd_mode.is_init([program])
    # Podman itself decides with Go's package regexp, which Python's agrees with here.
    assert matches == any(re.search(one.pattern, program) for one in patterns)
    if program in ("/bin/sleep", "/dev/init", "/sbin/init-not", "/opt/systemd-thing", "init"):
        assert not matches


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"ociVersion": "1.0.2", "annotations": {"a": "b"}}')
    return tmp_path


def config(bundle: Path) -> dict[str, object]:
    return dict(json.loads((bundle / "config.json").read_text()))


def test_the_hook_is_added_with_its_annotation_and_removed_with_it(bundle: Path) -> None:
    before = config(bundle)
    outcomes = hooks_file.add(str(bundle), systemd=True)
    assert all(outcome.changed for outcome in outcomes)
    assert config(bundle)["annotations"] == {"a": "b", KEY: "true"}
    assert "hooks/systemd" in json.dumps(config(bundle)["hooks"])
    assert not any(one.changed for one in hooks_file.add(str(bundle), systemd=True))
    assert f"annotation {KEY}=true" in [str(one.entry) for one in hooks_file.remove(str(bundle))]
    assert config(bundle) == before


def test_it_is_not_added_unasked_and_goes_together_with_a_slice(bundle: Path) -> None:
    hooks_file.add(str(bundle))
    assert "hooks/systemd" not in json.dumps(config(bundle))
    hooks_file.add(str(bundle), "torpor-web.slice", systemd=True)
    wanted = {"a": "b", "io.torpor.slice": "torpor-web.slice", KEY: "true"}
    assert config(bundle)["annotations"] == wanted
