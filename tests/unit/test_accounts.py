"""Names become ids by the container's own accounts, in a process that can do nothing else."""

import errno
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import accounts, confinement, yaml_tree
from torpor.accounts import Ids, User
from torpor.errors import DefinitionError
from torpor.values import WrongError
from torpor.yaml_tree import Node

PASSWD = b"""# web:x:1:1
+web:x:2:2::/:
-root
root:x:0:0:root:/root:/bin/sh\r
  web:x:33:34:the web:/:/bin/false
web:x:77:77::/:
double:x:33:78::/:
odd:x:0044:0045
big:x:4294967295:0::/:
minus:x:-1:0::/:
short:x
\xff\xfe:x:55:55::/:
nul\0:x:5:6::/:
"""
GROUP = b"""#staff:x:1:web
+staff:x:2:web
root:x:0:
web:x:34:web
staff:x:50:other, web
staff:x:51:web
logs:x:4:web
bad:x:many:
worse:x:1e3:victim
few:x:9
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


def blame(key: str, problem: str, hint: str) -> DefinitionError:
    return DefinitionError(f"key '{key}': {problem}", hint)


def found(user: int | str, group: int | str | None = None, *groups: int | str) -> Ids:
    return accounts.find(PASSWD, GROUP, User(user, group), groups)


def fault(user: int | str, group: int | str | None = None, *groups: int | str) -> accounts.Fault:
    with pytest.raises(accounts.FaultError) as caught:
        found(user, group, *groups)
    return caught.value.fault


def node(text: str) -> Node:
    return yaml_tree.read("web.yaml", b"key: " + text.encode()).entries["key"][1]


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_bytes(PASSWD)
    (root / "etc/group").write_bytes(GROUP)
    return root


def looked_up(root: Path, text: str, *groups: int | str) -> dict[str, Any]:
    return accounts.process_user(str(root), accounts.parse_user(node(text)), groups, blame)


def refused(root: Path, text: str, *groups: int | str) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        looked_up(root, text, *groups)
    return caught.value


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("33", User(33)),
        ("33:0", User(33, 0)),
        ("web", User("web")),
        ("web:staff", User("web", "staff")),
        ("2147483647:1", User(2147483647, 1)),
        ("DOM.user@x$", User("DOM.user@x$")),
    ],
)
def test_a_user_is_an_id_or_a_name_with_or_without_a_group(text: str, user: User) -> None:
    assert accounts.parse_user(node(text)) == user


@pytest.mark.parametrize(
    "text", ['""', "2147483648", "-1", "033", "'1:'", ":1", "a:b:c", "a b", "٣", "[web]", "{a: b}"]
)
def test_a_user_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(WrongError):
        accounts.parse_user(node(text))


def test_groups_are_a_list_or_a_single_one() -> None:
    assert accounts.parse_groups(node("[4, staff]")) == (4, "staff")
    assert accounts.parse_groups(node("staff")) == ("staff",)
    assert accounts.parse_groups(node("[]")) == ()


def test_a_wrong_group_is_blamed_in_its_own_line() -> None:
    with pytest.raises(WrongError) as caught:
        accounts.parse_groups(node("\n- staff\n- -1\n"))
    assert caught.value.line == 3


def test_more_groups_than_a_process_may_have_are_refused() -> None:
    with pytest.raises(WrongError, match="1025 groups"):
        accounts.parse_groups(node(str([7] * 1025)))


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        ("root", None, Ids(0, 0)),
        ("web", None, Ids(33, 34, (4, 34, 50, 51))),
        ("web", "staff", Ids(33, 50)),
        ("web", 7, Ids(33, 7)),
        (33, None, Ids(33, 34, (4, 34, 50, 51))),
        (33, "staff", Ids(33, 50)),
        (77, None, Ids(77, 77, (4, 34, 50, 51))),
        (1234, None, Ids(1234, 0)),
        (1234, "few", Ids(1234, 9)),
        ("odd", None, Ids(44, 45)),
        (44, None, Ids(44, 45)),
        (55, None, Ids(55, 55)),
        (4294967295, "root", Ids(4294967295, 0)),
    ],
)
def test_the_first_entry_of_a_name_or_a_uid_counts(
    user: int | str, group: int | str | None, expected: Ids
) -> None:
    assert found(user, group) == expected


def test_other_groups_come_on_top_of_the_accounts_own_and_of_a_given_one() -> None:
    assert found("web", None, "few", 1000).groups == (4, 9, 34, 50, 51, 1000)
    assert found("web", 7, "few", "few", 1000).groups == (9, 1000)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("nobody",), ("missing", "passwd", 0, 0)),
        (("staff",), ("missing", "passwd", 0, 0)),
        (("short",), ("missing", "passwd", 0, 0)),
        (("nul",), ("missing", "passwd", 0, 0)),
        (("big",), ("unusable", "passwd", 0, 9)),
        (("minus",), ("unusable", "passwd", 0, 10)),
        (("web", "none"), ("missing", "group", 1, 0)),
        (("web", "bad"), ("unusable", "group", 1, 8)),
        (("web", None, "staff", "none"), ("missing", "group", 3, 0)),
        ((1, 1, "bad"), ("unusable", "group", 2, 8)),
    ],
)
def test_an_account_without_use_is_a_fault_that_tells_file_and_line(
    asked: tuple[Any, ...], expected: tuple[Any, ...]
) -> None:
    assert fault(*asked) == accounts.Fault(*expected)


def test_a_group_with_a_wrong_id_matters_only_to_its_members() -> None:
    victim = b"victim:x:5:5\n"
    with pytest.raises(accounts.FaultError) as caught:
        accounts.find(victim, GROUP, User("victim"), ())
    assert caught.value.fault == accounts.Fault("unusable", "group", 0, 9)
    assert accounts.find(victim, GROUP, User("victim", "staff"), ()) == Ids(5, 50)


def test_a_member_of_too_many_groups_is_refused() -> None:
    group = b"".join(b"g%d:x:%d:web\n" % (gid, gid) for gid in range(1025))
    with pytest.raises(accounts.FaultError) as caught:
        accounts.find(PASSWD, group, User("web"), ())
    assert caught.value.fault.kind == "crowded"
    assert (
        len(accounts.find(PASSWD, group[: group.index(b"g1024:")], User("web"), ()).groups) == 1024
    )


def test_the_group_is_a_supplementary_one_too(rootfs: Path) -> None:
    assert looked_up(rootfs, "web") == {"uid": 33, "gid": 34, "additionalGids": [4, 34, 50, 51]}
    assert looked_up(rootfs, "web:few", 3) == {"uid": 33, "gid": 9, "additionalGids": [3, 9]}
    assert looked_up(rootfs, "7:8", 9, 3) == {"uid": 7, "gid": 8, "additionalGids": [3, 8, 9]}


def test_numbers_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    assert looked_up(tmp_path / "none", "7:8", 9)["additionalGids"] == [8, 9]


def test_a_uid_without_account_files_stands_for_itself(tmp_path: Path) -> None:
    assert looked_up(tmp_path, "1000") == {"uid": 1000, "gid": 0, "additionalGids": [0]}


@pytest.mark.parametrize(
    ("text", "groups", "message"),
    [
        ("none", (), r"key 'user': user 'none' is not in .*/rootfs/etc/passwd$"),
        ("web:none", (), r"key 'user': group 'none' is not in .*/rootfs/etc/group$"),
        ("big", (), r"key 'user': .*/rootfs/etc/passwd:9: the ids of user 'big' are not"),
        ("1:1", ("none",), r"key 'groups': group 'none' is not in .*/rootfs/etc/group$"),
        ("web", (4, "bad"), r"key 'groups': .*/rootfs/etc/group:8: the ids of group 'bad' are"),
    ],
)
def test_a_refusal_names_key_account_and_file(
    rootfs: Path, text: str, groups: tuple[int | str, ...], message: str
) -> None:
    error = refused(rootfs, text, *groups)
    assert re.match(message, error.message) and error.hint


def test_a_file_beyond_the_limit_is_refused_and_one_up_to_it_read(rootfs: Path) -> None:
    rest = accounts.ACCOUNTS_LIMIT_BYTES - len(PASSWD)
    for filler in (b"\n", b":", b"x", b"ab:\n", b",", b"a:b:c:d:e:f\n"):
        filled = PASSWD + (filler * rest)[:rest]
        (rootfs / "etc/passwd").write_bytes(filled)
        (rootfs / "etc/group").write_bytes(b"web:x:1:" + filled[:-8])
        assert looked_up(rootfs, "web")["uid"] == 33
    (rootfs / "etc/passwd").write_bytes(filled + b"\n")
    assert "is larger than 1048576 bytes" in refused(rootfs, "web").message


@pytest.mark.parametrize("target", ["/etc/shadow", "/etc/passwd", "../../../../../etc/passwd"])
def test_a_link_to_a_file_of_the_host_ends_inside(rootfs: Path, target: str) -> None:
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to(target)
    assert "key 'user'" in refused(rootfs, "daemon").message


def test_a_linked_directory_ends_inside(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "etc").rename(tmp_path / "outside")
    (rootfs / "etc").symlink_to(tmp_path / "outside")
    assert "is not in" in refused(rootfs, "web").message
    inside = rootfs / str(tmp_path / "outside").lstrip("/")
    inside.mkdir(parents=True)
    (inside / "passwd").write_bytes(b"web:x:99:98")
    assert looked_up(rootfs, "web")["uid"] == 99


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_without_waiting(
    rootfs: Path, make: Callable[[Path], None]
) -> None:
    (rootfs / "etc/group").unlink()
    make(rootfs / "etc/group")
    assert "etc/group: it is " in refused(rootfs, "web").message
    assert "key 'groups'" in refused(rootfs, "1:1", "staff").message


@as_root
def test_a_device_is_refused_without_being_opened(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mknod(rootfs / "etc/passwd", 0o600 | 0o020000, os.makedev(5, 0))
    assert "it is not a regular file" in refused(rootfs, "web").message


@as_root
def test_the_files_are_understood_by_nobody(rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def who(*_: object) -> Ids:
        return Ids(os.getuid(), os.getgid(), (os.getppid(),))

    monkeypatch.setattr(accounts, "find", who)
    assert looked_up(rootfs, "web") == {
        "uid": 65534,
        "gid": 65534,
        "additionalGids": sorted([65534, os.getpid()]),
    }


def outcomes(*attempts: Callable[[], object]) -> list[str]:
    """What became of each attempt in a confined process: `done`, or why it failed."""

    def probe() -> bytes:
        words = []
        for attempt in attempts:
            try:
                attempt()
                words.append("done")
            except OSError as error:
                words.append(type(error).__name__ if error.errno is None else str(error.errno))
        return " ".join(words).encode()

    return confinement.run(probe, ()).decode().split()


@as_root
def test_a_confined_process_can_touch_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    names = "done" not in outcomes(
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open("/", os.O_RDONLY),
        lambda: os.dup(0),
        os.pipe,
        os.fork,
        lambda: os.kill(1, 0),
        lambda: os.kill(os.getppid(), 0),
        lambda: os.mkdir("/tmp/made-by-a-confined-process"),
        lambda: os.mkdir("made-by-a-confined-process"),
        lambda: os.rmdir(target),
        lambda: os.stat("/etc"),
        lambda: os.chroot("/"),
        lambda: os.setuid(0),
        lambda: os.setgroups([0]),
        lambda: os.write(1, b"to standard output"),
        lambda: os.execv("/bin/sh", ["sh"]),
        lambda: os.sched_setaffinity(os.getppid(), {0}),
        lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 1),
    )
    assert names and target.exists()


@as_root
def test_a_confined_process_is_nobody_without_capabilities() -> None:
    import prctl

    def probe() -> bytes:
        told = [*os.getresuid(), *os.getresgid(), len(os.getgroups())]
        capabilities = [prctl.cap_effective, prctl.cap_permitted, prctl.cap_inheritable]
        told += [sum(getattr(one, name) for name in prctl.ALL_CAP_NAMES) for one in capabilities]
        told += [sum(prctl.capbset_read(capability) for capability in prctl.ALL_CAPS)]
        told += [prctl.get_no_new_privs(), int(prctl.get_dumpable()), prctl.get_pdeathsig()]
        return " ".join(map(str, told)).encode()

    before = os.getgroups()
    os.setgroups([0, 27])
    try:
        told = confinement.run(probe, ())
    finally:
        os.setgroups(before)
    assert list(map(int, told.split())) == [*[65534] * 6, 0, 0, 0, 0, 0, 1, 0, signal.SIGKILL]


def test_a_confined_process_has_its_limits() -> None:
    import resource

    names = ("NOFILE", "NPROC", "FSIZE", "CORE", "CPU", "AS")
    limits = [getattr(resource, f"RLIMIT_{name}") for name in names]
    told = confinement.run(
        lambda: " ".join(str(max(resource.getrlimit(limit))) for limit in limits).encode(), ()
    )
    *small, memory_bytes = map(int, told.split())
    assert small == [0, 0, 0, 0, 5]
    assert 64 << 20 < memory_bytes < 64 << 30


def test_a_descriptor_that_is_kept_can_be_read_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    first = os.open(tmp_path / "file", os.O_RDONLY)
    other = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert confinement.run(lambda: os.read(first, 100), (first,)) == b"content"
        with pytest.raises(confinement.ConfinedError):
            confinement.run(lambda: os.read(other, 100), (first,))
    finally:
        os.close(first)
        os.close(other)


def sleep() -> bytes:
    time.sleep(60)
    return b"too late"


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was killed by signal 11"),
        (lambda: bytes(1 << 30), "ended with status 70"),
        (lambda: 1 // 0, "ended with status 70"),
        (lambda: os._exit(3), "ended with status 3"),
        (lambda: b"x" * 20_000, "says too much"),
        (lambda: b"x" * 20_000_000, "says too much"),
        (sleep, "took too long"),
    ],
)
def test_a_confined_process_that_fails_is_reported_and_leaves_nothing(
    work: Callable[[], bytes], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(confinement.ConfinedError, match=f"^{reason}$"):
        confinement.run(work, (), deadline_s=0.5 if work is sleep else 10)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert capfd.readouterr() == ("", "")


def test_a_machine_without_room_for_a_process_is_one_clear_error(
    rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", fork)
    assert "could not be started: Resource temp" in refused(rootfs, "web").message
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_no_handler_of_the_parent_runs_in_a_confined_process() -> None:
    def end() -> bytes:
        os.kill(os.getpid(), signal.SIGTERM)
        return b"heard by a handler"

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(confinement.ConfinedError, match="signal 15"):
            confinement.run(end, ())
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello",
        b"ids 1 2",
        b"ids 1 2 3",
        b"ids 1 2 3,\n",
        b"ids 9999999999 2 3,",
        b"ids 1 2 9999999999,",
        b"ids -1 2 ",
        b"ids 1 2 " + b"9" * 9000 + b",",
        b"missing passwd 2 0",
        b"missing passwd 9999 0",
        b"missing shadow 0 0",
        b"nonsense passwd 0 0",
        b"missing passwd 0",
    ],
)
def test_an_answer_that_is_none_is_one_clear_error(
    rootfs: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(accounts, "_answer", lambda *_: answer)
    error = refused(rootfs, "web")
    assert re.fullmatch(
        r"key 'user': .*/etc/passwd and .*/etc/group: not read: the process .* answer that is none",
        error.message,
    )


def test_an_answer_cannot_change_what_is_spelled_out(
    rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_answer", lambda *_: b"ids 0 0 0,")
    for text, groups in (("1", (0,)), ("root:1", (0,)), ("root", (7,))):
        assert "not read" in refused(rootfs, text, *groups).message


drawn = st.binary(min_size=48, max_size=48)  # a fixed size is drawn in half the time
WANTED = ("web", "a", 33, 0)


def joined(choice: bytes, *words: bytes) -> bytes:
    """A text in which each byte of choice stands for a word, or for itself."""
    return b"".join(
        words[byte % 32] if byte % 32 < len(words) else bytes([byte]) for byte in choice
    )


def lines(choice: bytes) -> bytes:
    separators = [b":"] * 8 + [b"\n"] * 3
    return joined(choice, *separators, b"web", b"33", b"x:", b"-1", b"9" * 11, b",", b"\n#")


@cases(800)
@given(drawn)
def test_every_content_gives_ids_or_a_fault(choice: bytes) -> None:
    passwd, group = b"web:x:3" * (choice[0] % 2) + lines(choice[4:24]), lines(choice[24:])
    user, own, other = (WANTED[byte % 4] for byte in choice[1:4])
    try:
        ids = accounts.find(passwd, group, User(user, own if choice[4] % 2 else None), (other,))
    except accounts.FaultError:
        return
    assert all(0 <= number < 1 << 31 for number in (ids.uid, ids.gid, *ids.groups))
    assert list(ids.groups) == sorted(set(ids.groups))


@cases(500)
@given(drawn)
def test_every_answer_gives_ids_a_fault_or_the_one_error(choice: bytes) -> None:
    heads = (b"ids 1 2 ", b"ids 9", b"missing group ", b"large passwd ", b"", b"unusable ")
    answer = heads[choice[0] % 6] + joined(
        choice[2 : 2 + choice[1] % 9], *[b"3,", b"7", b"9" * 11, b"0", b" ", b"passwd "] * 5
    )
    try:
        accounts._checked(answer, User("web"), ())
    except (accounts.FaultError, confinement.ConfinedError):
        pass


@cases(500)
@given(st.text(max_size=20) | st.text("a1:0-", max_size=12))
def test_every_text_is_a_user_or_is_refused(text: str) -> None:
    scalar = yaml_tree.Scalar(1, text, absent=False)
    for parse in (accounts.parse_user, accounts.parse_groups):
        try:
            parse(scalar)
        except WrongError:
            continue


@cases(30)
@given(drawn)
def test_every_rootfs_gives_a_user_or_the_one_error(rootfs: Path, choice: bytes) -> None:
    (rootfs / "etc/passwd").write_bytes(b"web:x:3" + lines(choice[:24]))
    (rootfs / "etc/group").write_bytes(lines(choice[24:]))
    try:
        looked_up(rootfs, "web")
    except DefinitionError as error:
        assert "etc/" in error.message and "not read" not in error.message
