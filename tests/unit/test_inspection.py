"""What is made of CRIU's messages, as pycriu gives them: recorded of a container with CRIU 4.2."""

import json
from pathlib import Path
from typing import cast

import pytest

from torpor import table
from torpor.commands import inspect
from torpor.criu_images import Entry, ImageDirectory, number_in
from torpor.dumped_processes import ZOMBIE, Process, in_order
from torpor.errors import ImageError
from torpor.open_files import OpenFile, OpenFiles

Message = dict[str, object]
RECORDED = Path(__file__).parent / "criu-messages.json"


class Recorded:
    """Images of which only the messages were kept."""

    def __init__(self, **images: list[Message]) -> None:
        self._images = {name: list(map(Entry, entries)) for name, entries in images.items()}

    def entries_if_any(self, name: str) -> list[Entry]:
        return self._images.get(name.removesuffix(".img").replace("-", "_"), [])


def opened(**images: list[Message]) -> OpenFiles:
    return OpenFiles(cast(ImageDirectory, Recorded(**images)))


@pytest.fixture
def recorded() -> OpenFiles:
    return opened(**json.loads(RECORDED.read_text()))


def test_files_that_were_open(recorded: OpenFiles) -> None:
    found = {one.fd: one for one in recorded.of(2)}
    assert found[0] == OpenFile(0, "device", "/dev/null", "rw", 0)
    assert found[3] == OpenFile(3, "file", "/tmp/open-file", "rw", 0, 100)
    assert found[4] == OpenFile(4, "file", "/tmp/gone", "rw", 70000, 70000, deleted=True)
    assert found[12] == OpenFile(12, "pipe", "203985", "r")
    assert found[13] == OpenFile(13, "pipe", "203985", "w")
    assert found[16] == OpenFile(16, "memfd", "mem-name", "rw", 300000, 300000)
    assert [found[fd].kind for fd in (14, 15)] == ["eventpoll", "eventfd"]


def test_sockets_that_were_open(recorded: OpenFiles) -> None:
    found = {one.fd: one for one in recorded.of(2)}
    assert found[5] == OpenFile(5, "tcp", "127.0.0.1:4711", state="listening")
    assert found[8] == OpenFile(8, "unix", "/tmp/sock", state="listening")
    assert found[9] == OpenFile(9, "unix", "@abstract", state="closed")
    assert found[10] == OpenFile(10, "udp", "0.0.0.0:53")
    assert found[11] == OpenFile(11, "tcp", "[::]:4712", state="listening")


def test_memory_that_has_a_name(recorded: OpenFiles) -> None:
    assert recorded.memory_names() == {2466: "mem-name", 2467: "/dev/zero"}
    assert recorded.memory_of(3) == 2467
    assert recorded.ghost_names() == {"ghost-file-1.img": "/tmp/gone"}


@pytest.mark.parametrize(
    "message",
    [
        {"fd": 1, "id": 7, "type": "INETSK"},  # of no file that there is
        {"fd": 1, "id": 7, "type": "UNIXSK"},
        {"fd": 1, "id": 7, "type": "MEMFD"},
        {"fd": 1, "id": 7, "type": "REG"},
        {"fd": 1, "id": 7, "type": "NEWER THAN THIS"},
    ],
)
def test_a_descriptor_of_which_no_more_is_known(message: Message) -> None:
    assert opened(fdinfo_1=[message]).of(1)[0].fd == 1


def test_a_message_that_lacks_something_is_damage() -> None:
    nested = Entry({"vmas": [{"start": 1}], "creds": {"uid": 0}}, "/images/mm-1.img")
    assert nested["vmas"][0]["start"] == 1 and nested["creds"].get("gid") is None
    for lacking in (nested, nested["vmas"][0], nested["creds"]):
        with pytest.raises(ImageError, match="is damaged: a message has no 'end'"):
            lacking["end"]


def entry(pid: int, ppid: int) -> Entry:
    return Entry({"pid": pid, "ppid": ppid})


def test_children_follow_their_parent() -> None:
    entries = [entry(1, 0), entry(9, 1), entry(5, 1), entry(6, 5), entry(7, 9), entry(8, 5)]
    assert [one["pid"] for one in in_order(entries)] == [1, 5, 6, 8, 9, 7]


@pytest.mark.parametrize(
    "entries",
    [
        [entry(1, 0), entry(2, 3), entry(3, 2)],
        [entry(1, 0), entry(1, 0)],
        [entry(1, 1)],
        [entry(1, 0), entry(2, 1), entry(2, 1)],
    ],
)
def test_processes_that_are_no_tree(entries: list[Entry]) -> None:
    with pytest.raises(ImageError, match="no tree"):
        in_order(entries)


def test_a_long_chain_of_processes() -> None:
    entries = [entry(pid, pid - 1) for pid in range(1, 100_000)]
    assert len(in_order(entries)) == len(entries)


def test_numbers_in_names() -> None:
    names = ("pagemap-shmem-12.img", "tmpfs-dev-66.tar.gz.img", "pstree.img", "mm-x.img", "mm-.img")
    assert [number_in(name) for name in names] == [12, 66, 0, 0, 0]


def test_a_table_is_as_wide_as_its_terminal() -> None:
    rows = [("1", "a" * 200), ("23456", "with \x1b[31m in it\n")]
    found = table.lines(("PID", "COMMAND"), rows, right="PID", width=80)
    assert found[0] == "  PID  COMMAND"
    assert len(found[1]) == 80 and found[1].endswith("aaa...")
    assert found[2] == "23456  with \\x1b[31m in it\\n"
    assert max(map(len, table.lines(("PID", "COMMAND"), rows, right="PID"))) == 207


def test_what_is_longer_than_a_line_goes_on_below_its_beginning() -> None:
    found = table.labelled("Generation", "2, in " + "/long " * 20, 80)
    assert len(found) > 1 and max(map(len, found)) <= 80
    assert found[1].startswith(" " * 14 + "/long")


def process(**values: object) -> Process:
    defaults: dict[str, object] = {
        **dict.fromkeys(("pgid", "sid", "memory_bytes", "shared_bytes", "mapped_bytes"), 0),
        **{"pid": 1, "ppid": 0, "name": "sh", "command": [], "state": "running", "threads": 1},
        **{"uid": 0, "gid": 0, "mount_namespace": 1, "files": []},
    }
    return Process(**{**defaults, **values})  # type: ignore[arg-type]


def test_what_a_process_is_known_by() -> None:
    assert inspect.command(process(command=["/bin/sh", "-c", "true"])) == "/bin/sh -c true"
    assert inspect.command(process(state=ZOMBIE)) == "[sh] <defunct>"
    assert inspect.command(process(state="stopped", command=["cat"])) == "cat <stopped>"
