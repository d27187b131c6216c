"""What a start and a stop go by: the record of the last rendering, while it holds."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import torpor
from torpor import last_rendering, record, rendering, summary
from torpor.container import Container
from torpor.errors import DefinitionError

UNIT = "/torpor.slice/torpor@web.service/payload"


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    """Rendered as it is defined; its rootfs and a bind source are in tmp_path."""
    monkeypatch.setattr("torpor.container.DEFINITION_ROOT", str(tmp_path))
    container = Container("web")
    container.state_dir = str(tmp_path / "lib")
    container.run_dir = str(tmp_path / "run")
    for name in ("lib", "run/bundle", "rootfs/bin", "source"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("rootfs")
    define(tmp_path)
    for path in (container.rendered_path, container.planned_path):
        Path(path).write_text("")
    keep(container, tmp_path)
    return container


def define(tmp_path: Path, more: str = "") -> None:
    text = f"rootfs: {tmp_path}/link\ncommand: [/bin/app]\nmounts: [{tmp_path}/source:/mnt]\n"
    (tmp_path / "web.yaml").write_text(text + more)


def keep(container: Container, tmp_path: Path) -> None:
    pairs = [
        ("torpor", torpor.__version__),
        ("unit", UNIT),
        ("host", last_rendering.host()),
        ("rootfs", f"{tmp_path}/rootfs"),
        ("checkpoint-on", "stop"),
        ("keep", "1"),
        ("stop-signal", "15"),
        ("owner", "0:0"),
        ("sync", f"{tmp_path}/rootfs"),
        ("file", last_rendering.stamped(container.definition_path)),
        ("resolved", f"{tmp_path}/link\t{tmp_path}/rootfs"),
        ("resolved", f"{tmp_path}/source\t{tmp_path}/source"),
    ]
    Path(container.inputs_path).write_bytes(record.serialize("inputs", pairs))


def holds(container: Container) -> bool:
    known = last_rendering.load(container)
    assert known is not None
    return last_rendering.still_hold(container, known, UNIT)


def test_a_record_holds_while_nothing_changed(container: Container) -> None:
    assert holds(container)


def test_a_bind_source_that_is_gone_is_noticed(container: Container, tmp_path: Path) -> None:
    (tmp_path / "source").rmdir()
    assert not holds(container)


def test_a_link_that_leads_to_another_rootfs_is_noticed(
    container: Container, tmp_path: Path
) -> None:
    (tmp_path / "release-2").mkdir()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("release-2")
    assert not holds(container)


@pytest.mark.parametrize("kind", ["a link", "a link to nothing", "a file", "below a file"])
def test_a_place_that_is_no_directory_any_more_is_noticed(
    container: Container, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "rootfs/var/log"
    with open(container.inputs_path, "a") as inputs:
        inputs.write(f"directory={place}\n")
    assert holds(container), "a runtime makes what is missing"
    place.mkdir(parents=True)
    (place / "file").touch()
    assert holds(container)
    shutil.rmtree(place)
    if kind == "below a file":
        place.parent.rmdir()
        place.parent.touch()
    elif kind == "a file":
        place.touch()
    else:
        place.symlink_to("/etc" if kind == "a link" else "/nowhere")
    assert not holds(container)


def test_another_kernel_is_noticed(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_rendering, "host", lambda: "7.0 no-selinux 0")
    assert not holds(container)


def test_a_stop_takes_the_policy_of_today_and_the_files_of_what_runs(
    container: Container, tmp_path: Path
) -> None:
    define(tmp_path, "read-only: yes\nstop-signal: INT\ncheckpoint: {on: restart, keep: 3}\n")
    inputs = rendering.current_or_last(container)
    assert inputs.checkpoint_on == {"restart"}
    assert (inputs.keep, inputs.stop_signal) == (3, 2)
    assert inputs.sync_paths == [f"{tmp_path}/rootfs"]


@pytest.mark.parametrize("text", ["rootfs: [\n", "hostnam: x\n", "image: oci:/nowhere:1\n", None])
def test_a_definition_in_the_making_does_not_keep_a_container_from_sleeping(
    container: Container, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "web.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    inputs = rendering.current_or_last(container)
    assert inputs.checkpoint_on >= {"stop"}
    assert inputs.sync_paths == [f"{tmp_path}/rootfs"]


def test_without_its_record_a_container_sleeps_by_the_config_that_it_runs_with(
    container: Container, tmp_path: Path
) -> None:
    os.unlink(container.inputs_path)
    config = f'{{"root": {{"path": "{tmp_path}/rootfs"}}}}'
    (tmp_path / "run/bundle/config.json").write_text(config)
    inputs = rendering.current_or_last(container)
    assert inputs.sync_paths == [f"{tmp_path}/rootfs"]
    assert inputs.checkpoint_on == {"stop", "shutdown"}


def test_a_hook_cannot_move_the_rootfs_or_the_cgroup() -> None:
    before: dict[str, Any] = {"root": {"path": "/r"}, "process": {}, "linux": {}}
    moved: dict[str, Any] = {**before, "process": {"terminal": True}, "linux": {"cgroupsPath": "/"}}
    rendering._require_unmoved(moved, before)
    assert moved["linux"] == {}
    assert moved["process"] == {"terminal": False}
    with pytest.raises(DefinitionError, match=r"moved root\.path to '/etc'"):
        rendering._require_unmoved({**before, "root": {"path": "/etc"}}, before)


def test_a_bind_mount_without_a_source_is_nothing_to_sync() -> None:
    mounts = [{"destination": "/a", "type": "bind", "source": None}]
    config = {"root": {"path": "/r", "readonly": True}, "mounts": mounts}
    assert not [value for key, value in summary.of(config, "/r") if key == "sync"]
