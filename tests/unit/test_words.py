"""What other programs say, and what torpor makes of it."""

import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor import criu, jobs, remedies, signals
from torpor.timespan import parse_s

UNIT = "torpor@web.service"


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        (f"1422 {UNIT} stop running\n", jobs.STOP),
        (f"1422 {UNIT} restart running\n", jobs.RESTART),
        (f"1422 {UNIT} start waiting\n", jobs.STOP),  # queued behind the stop
        (f"7 {UNIT} stop running\n8 shutdown.target start waiting\n", jobs.SHUTDOWN),
        (f"8 shutdown.target start waiting\n9 {UNIT} restart running\n", jobs.SHUTDOWN),
        ("", jobs.NO_JOB),
        ("No jobs running.\n", jobs.NO_JOB),
        ("12 torpor@other.service stop running\n", jobs.NO_JOB),
    ],
)
def test_why_a_unit_stops(listing: str, expected: str) -> None:
    assert jobs.cause(listing, UNIT) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1min 30s", 90.0),
        ("2s", 2.0),
        ("1.500s", 1.5),
        ("500ms", 0.5),
        ("1h 2min", 3720.0),
        ("infinity", 365 * 86400.0),
        ("", 90.0),
        ("nonsense", 90.0),
    ],
)
def test_a_time_span_of_systemctl(text: str, expected: float) -> None:
    assert parse_s(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15", 15),
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigint", 2),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1),
        ("0", None),
        ("65", None),
        ("RTMIN+99", None),
        ("RTMIN+²", None),
        ("9" * 5000, None),
        ("", None),
        ("RTMIN", signal.SIGRTMIN),
        ("RTMAX", signal.SIGRTMAX),
    ],
)
def test_a_signal(text: str, expected: int | None) -> None:
    assert signals.parse(text) == expected


@given(st.text())
def test_any_text_is_a_signal_or_none(text: str) -> None:
    assert signals.parse(text) is None or 0 < (signals.parse(text) or 0) <= 64


LOG = """\
(00.000001) Version: 4.2.1
(00.010000) Error (criu/rlimit.c:10): rlimit: Can't setup RLIMIT_NOFILE for self: denied
(00.020000) Error (criu/files-reg.c:1837): Can't lookup mount=323 for fd=1 path=/log
(00.020001) Error (criu/files-reg.c:1837): Can't lookup mount=323 for fd=1 path=/log
(00.030000) Error (criu/cr-dump.c:1781): Dump files (pid: 137) failed with -1
(00.040000) Error (criu/cr-dump.c:2128): Dumping FAILED.
"""


def test_the_errors_of_a_log_are_the_causes_without_noise(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text(LOG)
    errors = criu.errors(str(tmp_path), "dump")
    assert errors == [
        "Can't lookup mount=323 for fd=1 path=/log",
        "Dump files (pid: 137) failed with -1",
    ]
    assert "a file from outside" in remedies.of(errors)
    assert criu.dump_rolled_back(str(tmp_path))


def test_a_log_that_breaks_off_says_that_criu_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text(LOG.rpartition("(00.040000)")[0])
    assert not criu.dump_rolled_back(str(tmp_path))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("CRIU: skqueue: Control messages in queue, not supported", True),
        ("CRIU: unix: Non-empty write queue on an in-flight socket 0x1e6e853", True),
        ("CRIU: inet: Can't dump corked dgram socket 1e3a0b5; Dump files failed", True),
        (
            "CRIU: parse_fdinfo_pid_s: error parsing [inotify wd:18 ino:5c902 sdev:26 mask:2 "
            "ignored_mask:0 ] for 8: Success",
            True,
        ),
        ("CRIU: error parsing [inotify wd:18 ino:5 fhandle-bytes:zz] for 8", False),
        ("CRIU: Can't lookup mount=323 for fd=1 path=/log", False),
    ],
)
def test_a_dump_is_tried_again_only_for_what_passes(reason: str, expected: bool) -> None:
    assert criu.will_pass(reason) is expected


def test_no_log_says_nothing(tmp_path: Path) -> None:
    assert criu.errors(str(tmp_path), "dump") == []
    assert not criu.dump_rolled_back(str(tmp_path))
    assert remedies.of([]) == ""
