"""What a start of Python must not load: a hook is started for every container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = frozenset(
    ("argparse", "ctypes", "json", "logging", "pystemd", "pyroute2", "subprocess", "yaml")
)
UNIT = HEAVY | {"collections", "enum", "functools", "threading"}
HOOK = UNIT | {"dataclasses", "pathlib", "re", "typing"}
SCRIPT = """
import sys
sys.path += {library!r}, *{packages!r}
{first}
print(*sys.modules)
"""
# Where what is not Python's own is installed: -S leaves it out.
PACKAGES = [path for path in sys.path if path.endswith("-packages")]
STATE = '{"ociVersion": "1.0.2", "id": "NAME", "status": "STATUS", "pid": 7, "bundle": "/b"}'
# A run of the hook to its end; it ends with os._exit.
RUN = """
import os
def end(status):
    print(status, *sys.modules, flush=True)
    leave(status)
leave, os._exit = os._exit, end
import torpor.hooks.{hook} as hook
hook.main()
"""


def loaded(library: Path, first: str, stdin: str = "", **env: str) -> set[str]:
    """The modules of a bare Python after some statements."""
    script = SCRIPT.format(library=str(library), packages=PACKAGES, first=first)
    done = subprocess.run(
        [sys.executable, "-ISBc", script],
        input=stdin,
        env=env,
        text=True,
        capture_output=True,
        check=False,
    )
    assert not done.stderr and not done.returncode, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("hook", ["create_runtime", "poststop", "cgroup", "network"])
def test_a_hook_imports_nothing_heavy(library: Path, hook: str) -> None:
    assert not loaded(library, f"import torpor.hooks.{hook}") & HOOK


@pytest.mark.parametrize(
    ("hook", "status"), [("create_runtime", "creating"), ("poststop", "stopped")]
)
def test_a_hook_that_writes_a_state_imports_nothing_heavy_on_its_way(
    library: Path, tmp_path: Path, hook: str, status: str
) -> None:
    roots = {"TORPOR_STATE_ROOT": str(tmp_path / "lib"), "TORPOR_RUN_ROOT": str(tmp_path / "run")}
    told = STATE.replace("NAME", "web").replace("STATUS", status)
    record = tmp_path / "lib/web/state"
    if hook == "poststop":
        loaded(library, RUN.format(hook="create_runtime"), told, **roots)
        assert "\nstate=RUNNING\n" in record.read_text()
    modules = loaded(library, RUN.format(hook=hook), told, **roots)
    assert "0" in modules and not modules & HOOK
    assert f"\nstate={'EXITED' if hook == 'poststop' else 'RUNNING'}\n" in record.read_text()


def test_the_cgroup_hook_imports_nothing_heavy_to_see_that_a_container_is_in_its_slice(
    library: Path,
) -> None:
    state = STATE.replace("STATUS", "creating").replace('"pid": 7', f'"pid": {os.getpid()}')
    for told in (state, state[:-1] + ', "annotations": {"io.torpor.slice": "-.slice"}}'):
        modules = loaded(library, RUN.format(hook="cgroup"), told)
        assert "0" in modules and not modules & HOOK


@pytest.mark.parametrize("status", ["creating", "stopped"])
def test_the_network_hook_imports_nothing_heavy_for_who_does_not_ask_for_one(
    library: Path, status: str
) -> None:
    modules = loaded(library, RUN.format(hook="network"), STATE.replace("STATUS", status))
    assert "0" in modules and not modules & HOOK


def test_what_keeps_and_removes_a_network_does_not_load_what_makes_it(library: Path) -> None:
    keeps = "import torpor.networking, torpor.bridge, torpor.firewall"
    assert not loaded(library, keeps) & HEAVY


@pytest.mark.parametrize("command", ["start", "wake", "stop", "settle"])
def test_what_a_unit_calls_imports_nothing_that_takes_long(library: Path, command: str) -> None:
    assert not loaded(library, f"import torpor.commands.{command}") & UNIT
