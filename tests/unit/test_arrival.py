"""A definition that arrives has other paths and is otherwise its author's; images fit, or not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from torpor import definition, fitting
from torpor.definition_text import moved_text
from torpor.errors import ArchiveError

COMMENTED = """# of mine
rootfs: /srv/old  # there
command: [/bin/app]  # it
env: {A: 022, B: on}
"""


def moved(text: str, rootfs: str) -> str:
    said = definition.parse("web", "web.yaml", text.encode())
    wanted = replace(said, name="other", rootfs=rootfs)
    found = moved_text(text.encode(), said, wanted)
    assert definition.parse("other", "x", found).digest() == wanted.digest()
    return found.decode()


def test_a_path_is_exchanged_in_its_line_and_comments_stay() -> None:
    found = moved(COMMENTED, "/var/lib/torpor/other/rootfs")
    assert found == COMMENTED.replace("/srv/old  # there", '"/var/lib/torpor/other/rootfs"')


@pytest.mark.parametrize(
    "text",
    [
        '{"rootfs": "/srv/old", "command": ["/bin/app"], "env": {"A": "022", "B": "on"}}',
        '{\n "command": ["/bin/app"],\n "rootfs":\n  "/srv/old"\n}\n',
        '"rootfs": /srv/old\ncommand: [/bin/app, ""]\numask: 022\n',
    ],
)
def test_other_ways_to_write_it_mean_the_same_afterwards(text: str) -> None:
    assert "/srv/new" in moved(text, "/srv/new")


def test_a_definition_that_stays_is_not_touched() -> None:
    assert moved(COMMENTED, "/srv/old") == COMMENTED


CONFIG: dict[str, Any] = {
    "root": {"path": "/a", "readonly": False},
    "process": {"args": ["x"]},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/a", "options": ["bind", "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "maskedPaths": ["/proc/keys"],
        "cgroupsPath": "/a",
    },
}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    found = copy.deepcopy(CONFIG)
    change(found)
    return found


def test_what_is_the_hosts_may_be_another() -> None:
    def change(config: dict[str, Any]) -> None:
        config["root"]["path"] = "/b"
        config["process"]["args"] = ["y"]
        config["mounts"][1]["source"] = "/b"
        config["mounts"].reverse()
        config["linux"]["namespaces"][1]["path"] = "/run/netns/b"
        config["linux"]["cgroupsPath"] = "/b"
        config["hooks"] = {"poststop": []}

    fitting.require(CONFIG, changed(change), "x.tar")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["mounts"].pop(),
        lambda config: config["mounts"].append({"destination": "/b", "type": "tmpfs"}),
        lambda config: config["mounts"][0].update(destination="/elsewhere"),
        lambda config: config["linux"]["namespaces"].pop(),
        lambda config: config["linux"]["namespaces"][0].update(path="/proc/1/ns/pid"),
        lambda config: config["linux"]["namespaces"][1].pop("path"),
        lambda config: config["linux"]["uidMappings"][0].update(hostID=2000),
        lambda config: config["linux"].update(gidMappings=config["linux"]["uidMappings"]),
        lambda config: config["linux"]["maskedPaths"].clear(),
        lambda config: config["root"].update(readonly=True),
    ],
)
def test_what_images_depend_on_may_not(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ArchiveError, match=r"x\.tar"):
        fitting.require(CONFIG, changed(change), "x.tar")


@pytest.mark.parametrize("key", ["mounts", "linux", "root"])
@pytest.mark.parametrize("value", [7, "x", [1], [{}], {"namespaces": [1]}])
def test_a_configuration_that_is_none_is_refused(key: str, value: object) -> None:
    if key == "root" and isinstance(value, dict):
        value = {"readonly": "of course"}
    with pytest.raises(ArchiveError):
        fitting.require({**CONFIG, key: value}, CONFIG, "x.tar")
