"""A device of a definition becomes a node and a rule; whatever is no device is refused."""

import os
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import devices, yaml_tree
from torpor.devices import Device, Found
from torpor.values import WrongError
from torpor.yaml_tree import Scalar

NULL = Found("/dev/null", "c", 1, 3, 0o666, 0, 0)
DENY_ALL = {"allow": False, "access": "rwm"}


def parsed(text: str) -> tuple[Device, ...]:
    return devices.parse(yaml_tree.read("web.yaml", f"k: {text}".encode()).entries["k"][1])


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("/dev/fuse", Device("/dev/fuse", "/dev/fuse", "rwm", 1)),
        ("/dev/sda:/dev/xvda", Device("/dev/sda", "/dev/xvda", "rwm", 1)),
        ("/dev/sda:/dev/xvda:r", Device("/dev/sda", "/dev/xvda", "r", 1)),
        ("/dev/sda:wr", Device("/dev/sda", "/dev/sda", "wr", 1)),
        ("/dev//net/./tun", Device("/dev/net/tun", "/dev/net/tun", "rwm", 1)),
        (
            "/dev/disk/by-path/pci-0000:00:1f.2-ata-1:/dev/xvda:rw",
            Device("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "/dev/xvda", "rw", 1),
        ),
    ],
)
def test_a_device_is_a_path_a_place_and_an_access(text: str, device: Device) -> None:
    assert parsed(f"[{text!r}]") == (device,)


@pytest.mark.parametrize(
    "text",
    [
        "fuse",
        "''",
        "/dev/sda:/dev/xvda:rx",
        "/dev/sda:/dev/xvda:rr",
        "'/dev/sda:/dev/xvda:'",
        "/dev/sda:/dev/xvda:rw:r",
        "/dev/../etc",
        "/dev/sda:/dev/../etc",
        "/dev/sda:/",
        "/",
        "/dev/",
        "[/dev/sda]",
        "/dev/sda, /dev/sdb:/dev/sda",
        "{/dev/sda: /dev/xvda}",
    ],
)
def test_what_could_mean_another_thing_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        parsed(f"[{text}]")


def test_a_device_is_what_the_host_says() -> None:
    assert devices.look_up(Device("/dev/null", "/dev/nothing", "rw")) == (
        Found("/dev/nothing", "c", 1, 3, 0o666, 0, 0, "rw"),
    )


def test_a_link_is_followed_and_its_own_name_kept(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    (found,) = devices.look_up(Device(f"{tmp_path}/link", "/dev/link"))
    assert (found.path, found.major, found.minor) == ("/dev/link", 1, 3)


def test_a_fifo_has_no_numbers_and_no_rule(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o640)
    (found,) = devices.look_up(Device(f"{tmp_path}/fifo", "/dev/fifo"))
    (node,) = devices.nodes([found])
    assert (node["type"], node["fileMode"]) == ("p", 0o640 & ~current_umask())
    assert "major" not in node
    assert devices.rules([found], [DENY_ALL]) == [DENY_ALL]


def current_umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "is not a device"),
        ("socket", "is not a device"),
        ("missing", "No such file"),
        ("loop", "Too many levels"),
        ("file/below", "Not a directory"),
        ("empty", "holds no devices"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_device_on_this_machine_is_refused_in_its_line(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/socket")
        with pytest.raises(WrongError, match=reason) as caught:
            devices.look_up(Device(f"{tmp_path}/{name}", "/dev/x", line=7))
    assert caught.value.line == 7


def test_a_directory_stands_for_all_devices_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a", "deep/c", "file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("a")
    lstat = os.lstat
    # mknod(2) may be forbidden where tests run
    character = os.stat_result((stat.S_IFCHR | 0o600, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": 261})
    monkeypatch.setattr(
        os, "lstat", lambda path: character if os.path.basename(path) in "abc" else lstat(path)
    )
    found = devices.look_up(Device(str(tmp_path), "/dev/snd", "rw"))
    assert [(one.path, one.major, one.minor) for one in found] == [
        ("/dev/snd/a", 1, 5),
        ("/dev/snd/b", 1, 5),
        ("/dev/snd/deep/c", 1, 5),
    ]


def test_a_directory_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).write_text("")
    monkeypatch.setattr(devices, "_DIRECTORY_LIMIT", 2)
    with pytest.raises(WrongError, match="more than 2 entries"):
        devices.look_up(Device(str(tmp_path), "/dev/x"))


def test_a_node_replaces_the_bundles_at_its_path_and_leaves_the_others() -> None:
    base = [{"path": "/dev/null", "type": "p"}, {"path": "/dev/x"}, "odd", {"path": []}]
    ours = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
    node = ours | {"fileMode": 0o666, "uid": 0, "gid": 0}
    assert devices.nodes([NULL], base) == [*base[1:], node]


def test_a_rule_comes_after_the_one_that_denies_all_and_is_given_once() -> None:
    rule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    assert devices.rules([NULL, NULL], [DENY_ALL]) == [DENY_ALL, rule]


pieces = ["/dev/sda", ":", "/", "r", "w", "m", "dev", "..", "//", ".", " ", "é", "\n", ":/dev/x"]


@cases(800)
@given(st.lists(st.sampled_from(pieces), max_size=8).map("".join))
def test_whatever_is_written_is_a_device_or_one_clear_error(text: str) -> None:
    try:
        (device,) = devices.parse(Scalar(1, text, absent=False))
    except WrongError as error:
        assert str(error).isprintable()
    else:
        assert device.host.startswith("/") and device.container.startswith("/")
        assert ".." not in device.container.split("/")
        assert set(device.access) <= set("rwm") and device.access
