"""Entries of the journal: each event has an id of its own and an explanation."""

import os
import re
import socket
from pathlib import Path

import pytest

from torpor import events, journal
from torpor.container import Container

CATALOG = Path(__file__).parents[2] / "packaging/torpor.catalog"
MANUAL = CATALOG.parent / "man/torpor@.service.8.md"
EVENTS: dict[str, events.Event] = {
    name: event for name, event in vars(events).items() if name.isupper() and type(event) is tuple
}
SENT = {"TORPOR_NAME", "TORPOR_GENERATION"}
WITHOUT_GENERATION = {events.STARTED, events.NOT_CHECKPOINTED, events.LOST}


def explanations() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_event_is_explained_once_and_nothing_else_is() -> None:
    ids = [identifier for identifier, _ in EVENTS.values()]
    assert len(ids) == len(set(ids)) > 10
    assert CATALOG.read_text().count("\n-- ") == len(ids)
    assert set(explanations()) == set(ids)


@pytest.mark.parametrize("name", EVENTS)
def test_an_explanation_has_a_subject_and_uses_only_fields_that_are_sent(name: str) -> None:
    event = EVENTS[name]
    text = explanations()[event[0]]
    assert re.match(r"\nSubject: .+\nDefined-By: torpor\nDocumentation: (man:\S+ ?)+\n\n", text)
    sent = SENT - ({"TORPOR_GENERATION"} if event in WITHOUT_GENERATION else set())
    assert set(re.findall(r"@([A-Z_]+)@", text)) <= sent
    assert max(map(len, text.splitlines())) < 80


def test_each_event_is_in_the_manual() -> None:
    section = MANUAL.read_text().partition("# THE JOURNAL\n")[2].partition("\n# ")[0]
    ids = [identifier for identifier, _ in EVENTS.values()]
    assert re.findall(r"^([0-9a-f]{32})\n: ", section, re.MULTILINE) == ids


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The receiving end of the journal's socket."""
    place = str(tmp_path / "socket")
    there = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    there.bind(place)
    monkeypatch.setattr(journal, "_SOCKET", place)
    return there


def fields(message: bytes) -> dict[str, str]:
    """By the rules of the native protocol."""
    found = {}
    while message:
        line, _, message = message.partition(b"\n")
        key, plain, value = line.partition(b"=")
        if not plain:
            size = int.from_bytes(message[:8], "little")
            value, message = message[8 : 8 + size], message[8 + size + 1 :]
        found[key.decode()] = value.decode()
    return found


def test_an_entry_has_its_fields(
    journald: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "leads_there", lambda fd: True)
    web = Container("web")
    events.tell(events.ASLEEP, web, "asleep", generation=7, image_bytes=9, frozen_s=0.25)
    said = fields(journald.recv(1 << 16))
    assert said == {
        "MESSAGE": "web: asleep",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "web",
        "MESSAGE_ID": events.ASLEEP[0],
        "TORPOR_NAME": "web",
        "TORPOR_GENERATION": "7",
        "OBJECT_SYSTEMD_UNIT": "torpor@web.service",
        "TORPOR_IMAGE_BYTES": "9",
        "TORPOR_FROZEN_USEC": "250000",
    }
    assert capfd.readouterr().err == ""


def test_what_others_said_makes_no_fields(journald: socket.socket) -> None:
    hostile = "no\nPRIORITY=0\nMESSAGE_ID=forged\x1b[2J"
    events.tell(events.NOT_RESTORED, Container("web"), hostile, hint="first\nsecond\x07")
    said = fields(journald.recv(1 << 16))
    expected = "web: no\\nPRIORITY=0\\nMESSAGE_ID=forged\\x1b[2J\n  first\n  second\\x07"
    assert said["MESSAGE"] == expected
    assert said["PRIORITY"] == "3"


def test_without_a_journal_it_is_said_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setattr(journal, "leads_there", lambda fd: True)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    events.tell(events.LOST, Container("web"), "lost", hint="look")
    assert capfd.readouterr().err == "<3>web: lost\n<3>  look\n"


def test_who_asks_at_a_terminal_reads_it_there_too(
    journald: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    events.tell(events.WENT_BACK, Container("web"), "back", generation=3)
    assert fields(journald.recv(1 << 16))["MESSAGE"] == "web: back"
    assert capfd.readouterr().err == "web: back\n"


def test_a_stream_that_was_redirected_does_not_lead_to_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "here").open("w") as here, (tmp_path / "elsewhere").open("w") as elsewhere:
        status = os.fstat(here.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert journal.leads_there(here.fileno())
        assert not journal.leads_there(elsewhere.fileno())
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not journal.leads_there(2)
