"""A plan is read back as it was written, and each word of it stays what it was."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import mounts, preparation, process, program, runc
from torpor.container import Container
from torpor.errors import RecordError, TorporError

ME = f"{os.geteuid()}\t{os.getegid()}"


@pytest.fixture
def container(tmp_path: Path) -> Container:
    container = Container("web")
    container.run_dir = str(tmp_path / "run/web")
    container.state_dir = str(tmp_path / "lib/web")
    os.makedirs(container.run_dir)
    return container


def read_back(tmp_path: Path, plan: preparation.Plan) -> preparation.Plan:
    (tmp_path / "plan").write_bytes(preparation.serialize(plan))
    return preparation.read(str(tmp_path / "plan"))


def test_words_become_one_value_with_tabs_between() -> None:
    assert preparation.value("a", "", "/b c") == "a\t\t/b c"


@pytest.mark.parametrize("word", ["a\tb", "\n", "a\0", "/srv/\ud800\t"])
def test_a_word_that_would_move_or_cut_others_is_refused(word: str) -> None:
    with pytest.raises(TorporError, match="tab, a line break or a NUL") as caught:
        preparation.value("a", word)
    assert caught.value.message.isprintable()


def test_there_is_no_plan_where_there_is_no_file(tmp_path: Path) -> None:
    assert preparation.read(str(tmp_path / "none")) == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"torpor-plan=0\n", b"torpor-plan=1\nowner\n"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan").write_bytes(content)
    with pytest.raises(RecordError):
        preparation.read(str(tmp_path / "plan"))


keys = st.sampled_from([preparation.OWNER, preparation.SHM, preparation.FILL, preparation.ROOTFS])
words = st.text(st.sampled_from("aé= \\%\r/:,-\u2028"), max_size=6)


@cases(100)
@given(st.lists(st.tuples(keys, st.lists(words, min_size=1, max_size=3)), max_size=5))
def test_every_plan_is_read_back_as_it_was_written(
    tmp_path: Path, said: list[tuple[str, list[str]]]
) -> None:
    plan = [(key, preparation.value(*listed)) for key, listed in said]
    found = read_back(tmp_path, plan)
    assert [(key, value.split("\t")) for key, value in found] == said


@cases(200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_plan_or_the_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan").write_bytes(b"torpor-plan=1\n" + content)
    try:
        preparation.read(str(tmp_path / "plan"))
    except RecordError:
        pass


def test_the_first_of_several_values_counts() -> None:
    plan = [("a", "1"), ("a", "2")]
    assert (preparation.first(plan, "a"), preparation.first(plan, "b")) == ("1", "")


def test_what_is_made_lies_in_the_run_directory() -> None:
    container = Container("web")
    places = (
        preparation.shm_path(container),
        preparation.namespace_path(container, "net"),
        preparation.file_path(container, "hostname"),
        preparation.source_path(container, 3),
    )
    assert all(place.startswith("/run/torpor/web/") for place in places)
    assert len(set(places)) == len(places)


def test_a_hostname_is_a_line_that_anybody_can_read(container: Container) -> None:
    assert preparation.prepare(container, [(preparation.HOSTNAME, "web")]) == []
    path = Path(preparation.file_path(container, "hostname"))
    assert path.read_text() == "web\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_is_not_written_through_a_link(container: Container, tmp_path: Path) -> None:
    path = Path(preparation.file_path(container, "hostname"))
    path.parent.mkdir()
    (tmp_path / "host").write_text("kept")
    path.symlink_to(tmp_path / "host")
    with pytest.raises(OSError):
        preparation.prepare(container, [(preparation.HOSTNAME, "web")])
    assert (tmp_path / "host").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_only_a_mapped_root_may_pass_through_the_run_directories(container: Container) -> None:
    directories = (os.path.dirname(container.run_dir), container.run_dir)

    def modes() -> list[int]:
        return [stat.S_IMODE(os.stat(directory).st_mode) for directory in directories]

    for directory in directories:
        os.chmod(directory, 0o700)
    preparation.prepare(container, [])
    assert modes() == [0o700, 0o700]
    preparation.prepare(container, [(preparation.OWNER, "1000\t1001")])
    assert modes() == [0o711, 0o710]
    status = os.stat(container.run_dir)
    assert (status.st_uid, status.st_gid) == (0, 1001)


@pytest.mark.parametrize(
    ("plan", "joins"),
    [
        ([], False),
        ([("join", "net\tipc")], False),
        ([("join", "ipc\tdb")], True),
        ([("namespace", "ipc\t/run/ipc")], True),
    ],
)
def test_a_joined_ipc_namespace_is_known_from_the_plan(plan: preparation.Plan, joins: bool) -> None:
    assert preparation.joins(plan, "ipc") is joins


def test_a_namespace_by_path_must_be_there(container: Container, tmp_path: Path) -> None:
    said = f"network\t{tmp_path}/net"
    with pytest.raises(TorporError, match=r"its network namespace .* does not exist"):
        preparation.prepare(container, [(preparation.NAMESPACE, said)])
    (tmp_path / "net").touch()
    assert preparation.prepare(container, [(preparation.NAMESPACE, said)]) == []


def test_steps_are_taken_in_the_order_of_the_plan_and_the_rest_is_only_said(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, list[str]]] = []

    def step(name: str) -> object:
        return lambda container, plan, words: taken.append((name, words))

    monkeypatch.setattr(preparation, "_STEPS", {key: step(key) for key in ("shm", "overlay")})
    plan = [("cgroup", "/x"), ("shm", "1\tx"), ("rootfs", "/r"), ("overlay", "\t\t/i")]
    preparation.prepare(container, plan)
    assert taken == [("shm", ["1", "x"]), ("overlay", ["", "", "/i"])]
    taken.clear()
    preparation.prepare_root(container, plan)
    assert taken == [("overlay", ["", "", "/i"])]


def test_what_a_step_warns_of_is_passed_on(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_STEPS", {"overlay": lambda *_: ["careful"]})
    step = ("overlay", "a\tb\tc")
    assert preparation.prepare(container, [step, step]) == ["careful"] * 2


@pytest.mark.parametrize(("key", "said"), [("overlay", "a"), ("shm", "1"), ("newer", "x")])
def test_a_plan_of_a_newer_torpor_is_not_half_followed(
    container: Container, key: str, said: str
) -> None:
    with pytest.raises(TorporError, match=f"its plan says {key}=.*does not know"):
        preparation.prepare(container, [(key, said)])


def test_a_rootfs_whose_dev_is_a_link_is_not_given_to_runc(
    container: Container, tmp_path: Path
) -> None:
    (tmp_path / "dev").symlink_to("/tmp")
    with pytest.raises(TorporError, match="dev is a link"):
        preparation.prepare(container, [("rootfs", str(tmp_path))])


def test_the_volumes_that_a_container_had_are_known_again(container: Container) -> None:
    plan = [(preparation.FILL, "/data")]
    with pytest.raises(TorporError, match=r"its volume .*No such file"):
        preparation.durable_identity(container, plan)
    os.makedirs(f"{container.state_dir}/volumes/data")
    before = preparation.durable_identity(container, plan)
    assert before == preparation.durable_identity(container, plan) != ""


def test_who_took_the_process_id_of_another_container_is_not_joined(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "run", lambda argv, timeout_s: "")
    monkeypatch.setattr(runc, "init_pid", lambda other: os.getpid())
    with pytest.raises(TorporError, match="db, whose net namespace it shares, has ended"):
        preparation.prepare(container, [(preparation.JOIN, "net\tdb")])


def test_another_containers_namespace_needs_it_to_run(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runc, "init_pid", lambda other: 0)
    with pytest.raises(TorporError, match="net namespace is that of db") as caught:
        preparation.prepare(container, [(preparation.JOIN, "net\tdb")])
    assert caught.value.hint == "systemctl start torpor@db.service"


def test_mounts_are_what_the_plan_says(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def run(argv: list[str], timeout_s: float) -> str:
        called.append(argv)
        return ""

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(runc, "init_pid", lambda other: 7)
    cgroup = "0::/torpor.slice/torpor@db.service/payload"
    monkeypatch.setattr(process, "read_small", lambda path: cgroup)
    shm = '64\tcontext="a:b:c:s0:c1,c2"'
    monkeypatch.setattr(preparation, "_let_pass", lambda container, gid: None)
    plan = [("owner", ME), ("shm", shm), ("join", "net\tdb")]
    preparation.prepare(container, plan)
    (tmpfs, bound) = called
    uid, gid = ME.split("\t")
    assert tmpfs[:4] == ["mount", "-t", "tmpfs", "-o"]
    assert tmpfs[4] == (
        f'noexec,nosuid,nodev,mode=1777,size=64,uid={uid},gid={gid},context="a:b:c:s0:c1,c2"'
    )
    assert tmpfs[-1] == preparation.shm_path(container)
    assert bound == [
        *("mount", "--bind", "/proc/7/ns/net"),
        preparation.namespace_path(container, "net"),
    ]


def test_a_mount_that_fails_is_said_in_mounts_own_words(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "run", lambda argv, timeout_s: "no such device")
    with pytest.raises(TorporError, match=r"cannot mount .*/shm: no such device"):
        preparation.prepare(container, [("shm", "1\t")])


def test_undo_unmounts_all_below_and_names_what_stays(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "below", lambda path: [f"{path}/a", f"{path}/b"])
    monkeypatch.setattr(mounts, "detach", lambda path: path.endswith("b"))
    (warning,) = preparation.undo(container)
    assert warning.startswith(f"{container.run_dir}/a cannot be unmounted")


def test_a_namespace_that_somebody_else_keeps_must_be_there(
    container: Container, tmp_path: Path
) -> None:
    path = tmp_path / "netns"
    plan = [(preparation.NAMESPACE, f"network\t{path}")]
    with pytest.raises(TorporError, match=f"its network namespace {path} does not exist"):
        preparation.prepare(container, plan)
    path.touch()
    assert preparation.prepare(container, plan) == []


@pytest.mark.parametrize(
    ("plan", "joins"),
    [
        ([(preparation.JOIN, "ipc\tdb")], True),
        ([(preparation.NAMESPACE, "ipc\t/run/ipc")], True),
        ([(preparation.JOIN, "net\tipc"), (preparation.SHM, "ipc\t")], False),
        ([], False),
    ],
)
def test_an_ipc_namespace_is_anothers_by_name_and_by_path(
    plan: preparation.Plan, *, joins: bool
) -> None:
    assert preparation.joins(plan, "ipc") is joins


def test_a_neighbour_whose_cgroup_begins_alike_is_not_joined(
    container: Container, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torpor.container.RUN_ROOT", str(tmp_path / "run"))
    (tmp_path / "run/db").mkdir()
    plan = preparation.serialize([(preparation.CGROUP, "/foo/torpor-db")])
    (tmp_path / "run/db/plan").write_bytes(plan)
    monkeypatch.setattr(program, "run", lambda argv, timeout_s: "")
    monkeypatch.setattr(runc, "init_pid", lambda other: 7)
    monkeypatch.setattr(process, "read_small", lambda path: "0::/foo/torpor-db2\n")
    with pytest.raises(TorporError, match="has ended"):
        preparation.prepare(container, [(preparation.JOIN, "net\tdb")])
    monkeypatch.setattr(process, "read_small", lambda path: "0::/foo/torpor-db\n")
    preparation.prepare(container, [(preparation.JOIN, "net\tdb")])
