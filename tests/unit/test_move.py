"""What two hosts say to each other of a container that moves."""

import json
import os
from collections.abc import Iterator

import pytest

from torpor import frames, link, offer
from torpor.errors import TorporError
from torpor.frames import CutOffError
from torpor.link import LinkError
from torpor.offer import Offer
from torpor.record import write_all

OFFER = Offer(
    form=offer.FORM,
    name="web",
    token="0" * 32,
    torpor="1.0",
    machine="x86_64",
    kernel="6.12",
    criu=(4, 1),
    cpu=b"\0cpu",
    size_bytes=1 << 30,
    definition="rootfs: /srv/web\n",
    sources=("/srv/data",),
    volumes=("shared",),
    image="",
    digest="sha256:0",
    rootfs="",
    starts=True,
    enables=False,
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def test_an_offer_is_read_as_it_was_made() -> None:
    said = offer.dumps(OFFER)
    assert b"\n" not in said
    assert offer.parse(said) == OFFER


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("form", "torpor move 2"), ("name", 3), ("cpu", "*"), ("criu", ["4"]), ("criu", [True])),
        *(("size_bytes", "1"), ("size_bytes", None), ("sources", [1]), ("definition", "\0")),
    ],
)
def test_an_offer_with_something_else_in_it_is_none(key: str, value: object) -> None:
    said = json.loads(offer.dumps(OFFER)) | {key: value}
    with pytest.raises(TorporError, match="what was offered cannot be read"):
        offer.parse(json.dumps(said).encode())


def test_what_is_not_said_to_be_wanted_is_not() -> None:
    said = json.loads(offer.dumps(OFFER)) | {"starts": "false", "enables": 1}
    found = offer.parse(json.dumps(said).encode())
    assert (found.starts, found.enables) == (False, False)


@pytest.mark.parametrize("sizes", [[], [1], [0x100000, 3], [5_000_000]])
def test_after_frames_the_stream_goes_on(sizes: list[int], pipe: tuple[int, int]) -> None:
    content = b"".join(os.urandom(size) for size in sizes)
    source, feeder = os.pipe()

    reader, writer = os.pipe()

    def feed() -> None:
        write_all(feeder, content)

    def send() -> None:
        frames.send(source, pipe[1])
        write_all(pipe[1], b"next\n")

    def receive() -> None:
        frames.receive(pipe[0], writer)
        write_all(writer, b"|")

    fed = link.pumping(feed, keep=(feeder,))
    os.close(feeder)
    sender = link.pumping(send, keep=(source, pipe[1]))
    os.close(source)
    os.close(pipe[1])
    receiver = link.pumping(receive, keep=(pipe[0], writer))
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == content + b"|"
    assert receiver.wait() == fed.wait() == 0
    assert frames.read_line(pipe[0]) == b"next"
    assert frames.read_line(pipe[0]) == b""
    assert sender.wait() == 0


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\0\5four", b"\xff\xff\xff\xff", b"abcd"])
def test_frames_that_are_none_are_cut_off(content: bytes, pipe: tuple[int, int]) -> None:
    os.write(pipe[1], content)
    os.close(pipe[1])
    with open(os.devnull, "wb") as sink, pytest.raises(CutOffError):
        frames.receive(pipe[0], sink.fileno())


def test_a_line_without_end_is_not_read_to_it(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x" * 100)
    assert frames.read_line(pipe[0], 50) == b""


@pytest.mark.parametrize(
    "line",
    [b"Welcome to host", b"[]", b'{"say": 1}', b'{"doubts": 1}', b"\xff", b'{"say": "\\ud800"}'],
)
def test_what_is_no_answer_is_taken_for_none(line: bytes) -> None:
    with pytest.raises(LinkError, match="which is no answer"):
        link.parse(line, "host")


def test_an_answer_says_what_it_says_and_no_more() -> None:
    said = link.parse(b'{"say": "no", "problem": "full", "more": []}', "host")
    assert said == {"say": "no", "problem": "full", "hint": "", "doubts": ()}


@pytest.mark.parametrize("host", ["", "-oProxyCommand=sh", "a b", "a\nb", "a\x1b"])
def test_an_option_is_no_host(host: str) -> None:
    assert not link.is_host(host)


def test_who_is_named_as_for_ssh_is_one() -> None:
    assert link.is_host("root@host.example") and link.is_host("ssh://root@[2001:db8::1]:22")
