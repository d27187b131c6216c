"""Editing the hooks of somebody's bundle: only torpor's change, and nothing else does."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor import hooks_file
from torpor.commands import hooks as command
from torpor.errors import DefinitionError

CREATE, POST = hooks_file.OURS
OTHER = {"path": "/opt/net", "args": ["net", "up"], "x": [1.5, None]}
BASE: dict[str, Any] = {
    "z-first": {"deep": [1, {"k": "é"}], "big": 12345678901234567890},
    "ociVersion": "1.0.2",
    "annotations": {},
}


def write(bundle: Path, config: object, **style: Any) -> Path:  # noqa: ANN401
    file = bundle / "config.json"
    file.write_text(json.dumps(config, **style))
    return file


def read(bundle: Path) -> Any:  # noqa: ANN401
    return json.loads((bundle / "config.json").read_text())


def test_hooks_are_added_behind_other_peoples(tmp_path: Path) -> None:
    write(tmp_path, BASE | {"hooks": {"createRuntime": [OTHER], "poststart": [OTHER]}})
    assert all(outcome.changed for outcome in hooks_file.add(str(tmp_path)))
    assert read(tmp_path) == BASE | {
        "hooks": {
            "createRuntime": [OTHER, {"path": CREATE.path, "timeout": 10}],
            "poststart": [OTHER],
            "poststop": [{"path": POST.path, "timeout": 10}],
        }
    }


def test_a_slice_brings_its_annotation_and_the_hook_that_checks_it(tmp_path: Path) -> None:
    write(tmp_path, {"ociVersion": "1", "annotations": {"a": "b"}})
    assert all(outcome.changed for outcome in hooks_file.add(str(tmp_path), "torpor-web.slice"))
    config = read(tmp_path)
    assert config["annotations"] == {"a": "b", "io.torpor.slice": "torpor-web.slice"}
    paths = [entry["path"] for entry in config["hooks"]["createRuntime"]]
    assert paths == [CREATE.path, hooks_file.CGROUP.path]


def test_a_slice_can_be_added_later_and_changed(tmp_path: Path) -> None:
    write(tmp_path, {"ociVersion": "1"})
    hooks_file.add(str(tmp_path))
    added = [str(one.entry) for one in hooks_file.add(str(tmp_path), "a.slice") if one.changed]
    assert added == [str(hooks_file.CGROUP), "annotation io.torpor.slice=a.slice"]
    assert not any(one.changed for one in hooks_file.add(str(tmp_path), "a.slice"))
    changed = [str(one.entry) for one in hooks_file.add(str(tmp_path), "b.slice") if one.changed]
    assert changed == ["annotation io.torpor.slice=b.slice"]
    hooks_file.add(str(tmp_path))
    assert read(tmp_path)["annotations"] == {"io.torpor.slice": "b.slice"}


def test_remove_takes_the_slice_with_its_hook_and_no_other_annotation(tmp_path: Path) -> None:
    own = {"io.torpor.resources.tasks-max": "5"}
    file = write(tmp_path, {"ociVersion": "1", "annotations": own})
    before = file.read_bytes()
    hooks_file.add(str(tmp_path), "a.slice")
    hooks_file.remove(str(tmp_path))
    assert file.read_bytes() == before
    file = write(tmp_path, {"ociVersion": "1", "annotations": {"io.torpor.slice": "a.slice"}})
    hooks_file.add(str(tmp_path))
    hooks_file.remove(str(tmp_path))
    assert "annotations" in read(tmp_path)  # it came without the hook


def test_annotations_that_are_none_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"ociVersion": "1", "annotations": [1]})
    with pytest.raises(DefinitionError, match="annotations is not an object"):
        hooks_file.add(str(tmp_path), "a.slice")


def test_a_second_add_does_not_touch_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    hooks_file.add(str(tmp_path))
    before = file.stat()
    assert not any(outcome.changed for outcome in hooks_file.add(str(tmp_path)))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_missing_one_of_the_two_is_added(tmp_path: Path) -> None:
    write(
        tmp_path, BASE | {"hooks": {"poststop": [{"path": "/usr/libexec//torpor/hooks/poststop"}]}}
    )
    outcomes = {str(one.entry).split()[0]: one.changed for one in hooks_file.add(str(tmp_path))}
    assert outcomes == {"createRuntime": True, "poststop": False}
    assert [hook.stage for hook in hooks_file.find(str(tmp_path))] == ["poststop", "createRuntime"]


@pytest.mark.parametrize("indent", [None, 1, 4, "\t"])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("compact", [True, False])
def test_add_and_remove_give_back_the_same_bytes(
    tmp_path: Path, indent: int | str | None, end: str, ascii_only: bool, compact: bool
) -> None:
    separators = (",", ":") if compact and indent is None else None
    file = write(tmp_path, BASE, indent=indent, ensure_ascii=ascii_only, separators=separators)
    with file.open("a") as stream:
        stream.write(end)
    before = file.read_bytes()
    hooks_file.add(str(tmp_path))
    added = file.read_bytes()
    assert before != added and added.count(b"\n") == before.count(b"\n") + (14 if indent else 0)
    hooks_file.remove(str(tmp_path))
    assert file.read_bytes() == before


def test_remove_takes_only_torpors_at_any_stage(tmp_path: Path) -> None:
    old = {"path": "/usr/libexec/torpor/hooks/old"}
    write(
        tmp_path,
        BASE | {"hooks": {"prestart": [old, OTHER], "poststop": [old], "poststart": [], "x": None}},
    )
    hooks_file.add(str(tmp_path))
    removed = [outcome.entry for outcome in hooks_file.remove(str(tmp_path)) if outcome.changed]
    assert len(removed) == 4
    assert read(tmp_path)["hooks"] == {"prestart": [OTHER], "poststart": [], "x": None}
    assert not any(outcome.changed for outcome in hooks_file.remove(str(tmp_path)))


def test_mode_and_owner_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 1234, 5678)
    before = file.stat()
    hooks_file.add(str(tmp_path))
    after = file.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_a_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, BASE)
    before = file.read_bytes()

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        hooks_file.add(str(tmp_path))
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("verb", [hooks_file.find, hooks_file.add, hooks_file.remove])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "no OCI configuration"),
        (b"{}", "no ociVersion"),
        (b'{"ociVersion": "1", "a": 1e999}', "not a number"),
        (b'{"ociVersion": "1", "a": NaN}', "not a number"),
        (b'{"ociVersion": "1", "a": 1, "a": 2}', "'a' is given twice"),
        (b"[" * 100_000, "nested more than"),
        (b'{"ociVersion": "1", "hooks": []}', "hooks is not an object"),
        (b'{"ociVersion": "1", "hooks": {"poststop": {}}}', "hooks.poststop is not a list"),
        (b'{"ociVersion": "1", "hooks": {"poststop": [5]}}', "an entry has no path"),
    ],
)
def test_a_bad_bundle_is_refused_and_left_alone(
    tmp_path: Path,
    verb: Any,  # noqa: ANN401
    content: bytes,
    problem: str,
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DefinitionError) as caught:
        verb(str(tmp_path))
    assert caught.value.message.startswith(f"{tmp_path}/config.json: ")
    assert problem in caught.value.message and caught.value.exit_code == 78
    assert (tmp_path / "config.json").read_bytes() == content


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "nothing", "no bundle"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    file = bundle / "config.json"
    (tmp_path / "elsewhere").write_text(json.dumps(BASE))
    before = (tmp_path / "elsewhere").stat()
    match kind:
        case "symlink":
            file.symlink_to("../elsewhere")
        case "fifo":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "no bundle":
            bundle.rmdir()
    with pytest.raises(DefinitionError):
        hooks_file.add(str(bundle))
    assert (tmp_path / "elsewhere").stat().st_mtime_ns == before.st_mtime_ns
    assert not file.is_symlink() or file.is_symlink() == (kind == "symlink")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.dictionaries(st.text(), values, max_size=4), st.sampled_from([None, 2, "\t"]))
def test_whatever_else_a_bundle_says_stays(
    tmp_path: Path, others: dict[str, Any], indent: int | str | None
) -> None:
    others.pop("hooks", None)
    write(tmp_path, others | {"ociVersion": "1"}, indent=indent, ensure_ascii=True)
    hooks_file.add(str(tmp_path))
    assert list(read(tmp_path)) == [*(others | {"ociVersion": "1"}), "hooks"]
    hooks_file.remove(str(tmp_path))
    assert read(tmp_path) == others | {"ociVersion": "1"}


def run(*words: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, BASE | {"hooks": {"poststart": [OTHER]}})
    said = []
    for action in ("add", "add", "list", "remove", "remove"):
        assert run(action, str(tmp_path)) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == f"createRuntime {CREATE.path}: added\npoststop {POST.path}: added\n"
    assert said[1] == said[0].replace("added", "already there")
    assert said[2].splitlines()[0] == "poststart      /opt/net"
    assert len(said[2].splitlines()) == 3
    assert said[3] == said[0].replace("added", "removed")
    assert said[4] == said[0].replace("added", "not there")


def test_a_wrong_slice_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = write(tmp_path, BASE)
    before = file.read_bytes()
    with pytest.raises(DefinitionError, match=r"io\.torpor\.slice: 'a--b\.slice' has a dash"):
        run("add", "--slice", "a--b.slice", str(tmp_path))
    assert file.read_bytes() == before


def test_the_list_is_for_programs_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, BASE | {"hooks": {"poststart": [OTHER], "poststop": [{"path": POST.path}]}})
    run("list", "--json", str(tmp_path))
    assert json.loads(capsys.readouterr().out) == [
        {"stage": "poststart", "path": "/opt/net", "torpor": False},
        {"stage": "poststop", "path": POST.path, "torpor": True},
    ]
