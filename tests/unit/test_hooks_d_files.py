"""Other packages' hooks: read, ordered, matched and asked as podman does, whatever they hold."""

import copy
import json
import os
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import go_regexp, hooks_d, oci_hook, precreate
from torpor.errors import DefinitionError
from torpor.oci_hook import Hook, HookError

CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {"args": ["/usr/sbin/init"]},
    "root": {"path": "/srv/web"},
    "annotations": {"org.example.gpu": "two", "broken": 3},
}
ALWAYS = {"always": True}


def content(when: object = ALWAYS, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    hook = {"path": "/bin/true"} | changes.pop("hook", {})
    return {"version": "1.0.0", "hook": hook, "when": when, "stages": ["poststop"]} | changes


def parsed(when: object = ALWAYS, **changes: Any) -> Hook:  # noqa: ANN401
    return oci_hook.parse("a.json", json.dumps(content(when, **changes)).encode())


def refused(raw: object) -> str:
    """The message for a file that is of those bytes, or of that value in JSON."""
    with pytest.raises(HookError) as caught:
        oci_hook.parse("a.json", raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    assert caught.value.exit_code == os.EX_CONFIG
    return f"{caught.value.message}\n{caught.value.hint}"


def is_met(when: object, *, bind: bool = False, config: dict[str, Any] = CONFIG) -> bool:
    return bool(hooks_d.matching(config, [parsed(when)], has_bind_mounts=bind))


@pytest.fixture
def directories(tmp_path: Path) -> tuple[str, str]:
    for name in ("usr", "etc"):
        (tmp_path / name).mkdir()
    return str(tmp_path / "usr"), str(tmp_path / "etc")


def write(directory: str, name: str, value: object) -> Path:
    file = Path(directory, name)
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def refused_file(directories: tuple[str, str]) -> str:
    with pytest.raises(HookError) as caught:
        hooks_d.read(directories)
    return f"{caught.value.message}\n{caught.value.hint}"


def test_a_file_says_all_of_a_hook() -> None:
    entry = {"path": "/bin/true", "args": ["true", "x"], "env": ["A=b"], "timeout": 3}
    hook = parsed(hook=entry, stages=["poststart", "poststop"])
    assert hook.entry() == entry
    assert hook.stages == ("poststart", "poststop")


def test_what_is_not_said_is_not_in_the_entry() -> None:
    assert parsed(hook={"args": [], "env": None}).entry() == {"path": "/bin/true"}


def test_unknown_keys_are_passed_over_and_case_does_not_count() -> None:
    raw = {"VERSION": "1.0.0", "Hook": {"PATH": "/bin/true", "x": 1}, "y": []}
    hook = oci_hook.parse(
        "a", json.dumps(raw | {"when": {"hasbindmounts": True}, "stages": []}).encode()
    )
    assert hook.path == "/bin/true" and hook.when.has_bind_mounts is True


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "a.json: is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"version": "1.0.0", "version": "1.0.0"}', "'version' is given twice"),
        (b'{"version": "1.0.0", "Version": "1.0.0"}', "'Version': is given twice"),
        ([], "a.json: is not an object"),
        ({}, "'version': is missing"),
        (content(version="0.1.0"), "old schema"),
        (content(version="1.1.0"), "must be 1.0.0"),
        (content(version=1), "'version': holds what is not a text"),
        (content(hook={"path": None}), "'hook.path': is missing"),
        (content(hook={"path": "bin/true"}), "not an absolute path"),
        (content(hook={"path": "/a\0b"}), "'hook.path': holds a NUL"),
        (content(hook={"path": "/\ud800"}), "half a surrogate"),
        (content() | {"hook": "/bin/true"}, "'hook': is not an object"),
        (content(hook={"args": "x"}), "'hook.args': is not a list"),
        (content(hook={"args": [1]}), "'hook.args': holds"),
        (content(hook={"env": ["A"]}), "'A' is not NAME=VALUE"),
        (content(hook={"env": ["=A=B"]}), "'=A=B' is not NAME=VALUE"),
        (content(hook={"timeout": 0}), "'hook.timeout': is not a number of seconds"),
        (content(hook={"timeout": True}), "'hook.timeout'"),
        (content(hook={"timeout": 1.5}), "'hook.timeout'"),
        (content(hook={"timeout": 10**12}), "'hook.timeout'"),
        (content({"always": "yes"}), "'when.always': is not a boolean"),
        (content({"annotations": ["a"]}), "'when.annotations': is not an object"),
        (content({"annotations": {"a": 1}}), "'when.annotations.a': holds"),
        (content({"annotations": {"(": "a"}}), "'when.annotations': '(' cannot be used"),
        (content({"annotations": {"a": "["}}), "'when.annotations.a': '[' cannot be used"),
        (content({"commands": ["a**"]}), "multiple repeat\nKeep to POSIX"),
        (content(stages=None), "'stages': is missing\nKnown: precreate, prestart"),
        (content(stages=["start"]), "'stages': 'start' is not a stage"),
        (content(stages="poststop"), "'stages': is not a list"),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(raw: object, words: str) -> None:
    assert words in refused(raw)


@pytest.mark.parametrize(
    ("when", "met"),
    [
        ({}, False),
        (None, False),
        (ALWAYS, True),
        ({"always": False}, False),
        ({"always": None}, False),
        ({"commands": []}, False),
        ({"commands": ["bash", "/init$"]}, True),
        ({"commands": ["^init"]}, False),
        ({"annotations": {}}, False),
        ({"annotations": {"gpu$": "^two$"}}, True),
        ({"annotations": {"gpu$": "three"}}, False),
        ({"annotations": {"gpu$": "two", "cpu": "two"}}, False),
        ({"annotations": {"^broken$": ""}}, False),
        (ALWAYS | {"commands": ["bash"]}, False),
        ({"always": False, "commands": ["init"]}, False),
        ({"commands": ["init"], "annotations": {"gpu": "."}}, True),
        ({"hasBindMounts": True}, False),
    ],
)
def test_a_hook_is_met_when_all_its_conditions_are_and_it_has_one(when: object, met: bool) -> None:
    assert is_met(when) is met


def test_bind_mounts_count_only_when_they_are_asked_for() -> None:
    assert is_met({"hasBindMounts": True}, bind=True)
    assert not is_met({"hasBindMounts": False}, bind=True)
    assert not is_met({"hasBindMounts": False}, bind=False)


def test_a_key_and_a_value_must_match_in_the_same_annotation() -> None:
    config = CONFIG | {"annotations": {"a": "1", "b": "2"}}
    assert not is_met({"annotations": {"^a$": "2"}}, config=config)


def test_annotations_that_are_none_meet_nothing() -> None:
    assert not is_met({"annotations": {"": ""}}, config=CONFIG | {"annotations": [1]})


def test_torpors_own_hooks_are_left_out() -> None:
    own = parsed(hook={"path": "/usr/libexec//torpor/hooks/poststop"})
    assert hooks_d.matching(CONFIG, [own], has_bind_mounts=False) == []


def test_a_hook_is_added_behind_those_of_the_bundle() -> None:
    config = CONFIG | {"hooks": {"createRuntime": [{"path": "/a"}], "poststart": None}}
    before = copy.deepcopy(config)
    hooks = [parsed(stages=["poststart", "precreate", "prestart"]), parsed(hook={"path": "/b"})]
    assert hooks_d.inject(config, hooks)["hooks"] == {
        "createRuntime": [{"path": "/a"}, {"path": "/bin/true"}],
        "poststart": [{"path": "/bin/true"}],
        "poststop": [{"path": "/b"}],
    }
    assert config == before


def test_a_container_that_no_hook_fits_has_no_hooks() -> None:
    assert hooks_d.inject(CONFIG, [parsed(stages=["precreate"])]) == CONFIG


@pytest.mark.parametrize("hooks", [[1], {"poststop": "x"}])
def test_malformed_hooks_of_a_bundle_are_the_bundles_fault(hooks: object) -> None:
    with pytest.raises(DefinitionError, match=r"^/b/config\.json: hooks"):
        hooks_d.inject(CONFIG | {"hooks": hooks}, [parsed()], "/b/config.json")


def test_files_are_ordered_by_name_in_lower_case(directories: tuple[str, str]) -> None:
    usr, etc = directories
    for directory, name in ((usr, "01-Z.json"), (etc, "01-a.json"), (usr, "00-z.json")):
        write(directory, name, content())
    write(usr, "b.json.dpkg-old", "{")
    assert [Path(hook.file).name for hook in hooks_d.read(directories)] == [
        "00-z.json",
        "01-a.json",
        "01-Z.json",
    ]


def test_a_later_directory_masks_a_file_of_the_same_name(directories: tuple[str, str]) -> None:
    write(directories[0], "a.json", "{")
    write(directories[1], "a.json", content({"always": False}))
    assert [hook.file for hook in hooks_d.read(directories)] == [f"{directories[1]}/a.json"]


def test_missing_directories_hold_no_hooks(tmp_path: Path) -> None:
    assert hooks_d.read([str(tmp_path / "no"), str(tmp_path / "no/where")]) == []


@pytest.mark.parametrize(
    ("target", "words"), [("gone", "No such file"), ("a.json", "Too many levels")]
)
def test_a_link_to_nothing_is_named(directories: tuple[str, str], target: str, words: str) -> None:
    Path(directories[0], "a.json").symlink_to(target)
    message = refused_file(directories)
    assert f"{directories[0]}/a.json" in message and f"link to '{target}'" in message
    assert words in message


def test_a_directory_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "hooks.d").symlink_to("gone")
    assert "hooks.d: is a link that leads nowhere" in refused_file((str(tmp_path / "hooks.d"), "/"))


def test_a_directory_a_fifo_and_a_huge_file_are_no_hook_files(directories: tuple[str, str]) -> None:
    file = Path(directories[0], "a.json")
    file.mkdir()
    assert "is a directory" in refused_file(directories)
    file.rmdir()
    os.mkfifo(file)
    assert "not a regular file" in refused_file(directories)
    file.unlink()
    file.write_bytes(b" " * (hooks_d.SIZE_LIMIT_BYTES + 1))
    assert "larger than" in refused_file(directories)


def test_a_name_that_no_message_can_hold_is_refused(directories: tuple[str, str]) -> None:
    Path(directories[0], "a\n.json").touch()
    assert r"a\n.json" in refused_file(directories)


def test_what_everybody_may_write_is_refused(directories: tuple[str, str]) -> None:
    file = write(directories[0], "a.json", content())
    file.chmod(0o646)
    assert f"chmod o-w {file}" in refused_file(directories)
    file.chmod(0o664)
    assert hooks_d.read(directories)
    Path(directories[0]).chmod(0o777)
    assert f"chmod o-w {directories[0]}" in refused_file(directories)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_somebody_else_is_refused(directories: tuple[str, str]) -> None:
    file = write(directories[0], "a.json", content())
    os.chown(file, 1234, 0)
    assert "belongs to uid 1234" in refused_file(directories)


def test_a_hook_without_its_program_is_refused(directories: tuple[str, str]) -> None:
    for path, words in (
        ("/no/such", "No such file"),
        ("/etc/passwd", "can be executed"),
        ("/", "can be executed"),
    ):
        write(directories[0], "a.json", content(hook={"path": path}))
        assert f"a.json: key 'hook.path': {path}: " in (message := refused_file(directories))
        assert words in message


def test_a_program_of_the_container_is_not_looked_for(directories: tuple[str, str]) -> None:
    for stages, is_read in ((["startContainer"], True), (["startContainer", "poststop"], False)):
        write(directories[0], "a.json", content(hook={"path": "/no/such"}, stages=stages))
        if is_read:
            assert len(hooks_d.read(directories)) == 1
        else:
            assert "No such file" in refused_file(directories)


def test_all_that_may_change_the_hooks_is_stamped(directories: tuple[str, str]) -> None:
    usr, etc = directories
    target = write(usr, "target", content())
    Path(etc, "b.json").symlink_to(target)
    Path(etc, "a.json").symlink_to("gone")
    Path(etc, "\n.json").touch()
    assert hooks_d.stamp_paths([usr, etc, "/no/such"]) == [
        usr,
        etc,
        f"{etc}/a.json",
        f"{etc}/b.json",
        f"{os.path.realpath(etc)}/gone",
        str(target.resolve()),
        "/no/such",
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("/init$", "/sbin/init", True),
        ("/init$", "/sbin/init\n", False),
        (r"/init\z", "/sbin/init", True),
        ("^init", "/sbin/init", False),
        (r"\$", "a$", True),
        ("[$]", "a$", True),
        ("a{,2}b", "a{,2}b", True),
        ("^a{2}$", "aa", True),
        (r"^\w$", "é", False),
        ("^[[:alpha:]_]+$", "a_Z", True),
        ("^[^[:space:][:digit:]]$", "\t", False),
        ("^[[:punct:]]+$", "!/:@[`{~]", True),
        ("^[]a]+$", "]a", True),
        ("^[a[]+$", "[a", True),
        ("^[a&&b||c~~]+$", "&|~", True),
        (r"^[\]a]+$", "]a", True),
        ("(?i)GPU", "gpu", True),
        ("(?P<name>a)(?:b)", "ab", True),
        ("a}+b", "a}}b", True),
        (r"\s", "\v", False),
        (r"^[\s]$", "\v", False),
        (r"^[\s]$", "\t", True),
        (r"^\S$", "\v", True),
    ],
)
def test_a_pattern_means_what_it_means_to_go(pattern: str, text: str, found: bool) -> None:
    assert go_regexp.matches(go_regexp.compiled(pattern), text) is found


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?=a)", "(?!a)", "(?<=a)", "(?>a)", "(?P=n)", "(?(1)a)", "(?#a)", "(?x)a", "(?m)a$"),
        *(r"(a)\1", r"\pL", r"\Z", r"\Q.\E", "a*+", "a++", "a{2}+", "[[:alfa:]]", "[[:^alpha:]]"),
        *("(", "[", "[]", "*", "a**", "[!--]", "[b-a]", "\\", "a{99999999999}", "(?i", "b(?i)a"),
        *("[~[:space:]", "[]a", r"[\S]", r"\é", "(?P<1>a)"),
        *("(" * 3000, "a" * (go_regexp.LENGTH_LIMIT + 1)),
    ],
)
def test_a_pattern_that_go_or_python_would_not_take_is_refused(pattern: str) -> None:
    with pytest.raises(go_regexp.PatternError):
        go_regexp.compiled(pattern)


def test_a_match_that_does_not_end_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_regexp, "TIMEOUT_S", 0.05)
    config = CONFIG | {"process": {"args": ["a" * 40 + "b"]}}
    began = time.monotonic()
    with pytest.raises(HookError, match=r"^a\.json: key 'when': was not matched within 0\.05 s"):
        is_met({"commands": ["(a+)+$"]}, config=config)
    assert time.monotonic() - began < 2


def test_a_long_text_is_an_error_and_no_way_around_a_hook() -> None:
    annotations = {"gpu": "x" * go_regexp.LENGTH_LIMIT}
    assert is_met({"annotations": {"gpu": "x$"}}, config=CONFIG | {"annotations": annotations})
    annotations["gpu"] += "x"
    with pytest.raises(HookError, match="cannot be matched with more than"):
        is_met({"annotations": {"gpu": "x$"}}, config=CONFIG | {"annotations": annotations})
    assert not is_met({"annotations": {"^cpu": ""}}, config=CONFIG | {"annotations": annotations})


Script = Callable[..., Hook]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """A precreate hook that is a shell script."""

    def make(text: str, **hook: Any) -> Hook:  # noqa: ANN401
        file = tmp_path / "hook"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
        return parsed(hook={"path": str(file)} | hook, stages=["precreate"])

    return make


def failed(hook: Hook, config: dict[str, Any] = CONFIG) -> str:
    with pytest.raises(HookError) as caught:
        precreate.filtered(config, [hook])
    assert caught.value.message.startswith(f"a.json: precreate hook {hook.path[:60]}")
    return caught.value.message


def test_a_hook_changes_the_configuration(script: Script) -> None:
    hook = script("exec /bin/sed 's|/usr/sbin/init|/bin/changed|'")
    before = copy.deepcopy(CONFIG)
    changed = precreate.filtered(CONFIG, [hook])
    assert changed == CONFIG | {"process": {"args": ["/bin/changed"]}}
    assert before == CONFIG


def test_hooks_of_other_stages_are_not_asked() -> None:
    assert precreate.filtered(CONFIG, [parsed(hook={"path": "/bin/false"})]) is CONFIG


def test_one_hook_reads_what_the_one_before_it_printed(script: Script) -> None:
    hook = script("exec /bin/sed 's|\"/srv/web|&x|'")
    assert precreate.filtered(CONFIG, [hook, hook])["root"] == {"path": "/srv/webxx"}


def test_a_hook_has_the_arguments_and_environment_of_its_file_only(script: Script) -> None:
    text = 'test "$1 $(/usr/bin/env | /bin/grep -c HOME) $A" = "x 0 b=c" && exec /bin/cat; exit 3'
    hook = script(text, args=["", "x"], env=["A=b=c"])
    assert precreate.filtered(CONFIG, [hook]) == CONFIG
    assert "exit status 3" in failed(script(text))


def test_a_configuration_larger_than_a_pipe_passes(script: Script) -> None:
    config = CONFIG | {"annotations": {"a": "x" * (1 << 20)}}
    assert precreate.filtered(config, [script("/bin/cat; echo >&2")]) == config


def test_a_hook_that_reads_nothing_does_no_harm(script: Script) -> None:
    config = CONFIG | {"annotations": {"a": "x" * (1 << 20)}}
    small = json.dumps(CONFIG)
    assert precreate.filtered(config, [script(f"echo '{small}'")]) == CONFIG


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo first >&2; echo '  last\x1b ' >&2; echo >&2; exit 4", "exit status 4: last"),
        ("kill -9 $$", "failed with signal 9"),
        ("true", "its output is empty"),
        ("echo warn >&2; echo {", "its output is not JSON"),
        ("echo []", "is not a JSON object"),
        ("echo {}", "has no ociVersion"),
        ("""echo '{"ociVersion": "1", "root": {"path": 1}}'""", "has no root.path"),
        (
            """echo '{"ociVersion": "1", "root": {"path": "/"}, "process": {"args": [1]}}'""",
            "has no process.args",
        ),
        (
            """echo '{"ociVersion": "1", "root": {"path": "/"}, "process": {"args": []}}'""",
            "has no process.args",
        ),
    ],
)
def test_a_hook_that_fails_is_named_with_its_last_words(
    script: Script, text: str, words: str
) -> None:
    message = failed(script(text))
    assert words in message and "\x1b" not in message


def test_a_program_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    (tmp_path / "hook").write_bytes(b"\x7fELF")
    (tmp_path / "hook").chmod(0o755)
    path = str(tmp_path / "hook")
    assert "cannot be run: Exec format error" in failed(
        parsed(hook={"path": path}, stages=["precreate"])
    )


@pytest.mark.parametrize("text", ["{} & wait", "{} & exit 0", "exec >&- 2>&-; {}"])
def test_a_hook_that_takes_too_long_is_killed_with_its_children(
    script: Script, tmp_path: Path, text: str
) -> None:
    sleeper = f"/bin/sh -c 'echo $$ >{tmp_path}/pid; exec /bin/sleep 60'"
    began = time.monotonic()
    assert "took longer than 1 s" in failed(script(text.format(sleeper), timeout=1))
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or wait_dead(state)


def wait_dead(state: Path) -> bool:
    for _ in range(100):
        try:
            if ") Z " in state.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_endless_output_is_cut_off(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precreate, "OUTPUT_LIMIT_BYTES", 1 << 20)
    assert "printed more than 1048576 bytes" in failed(script("exec /usr/bin/yes"))
    assert "took longer than 1 s: y" in failed(script("exec /usr/bin/yes >&2", timeout=1))


def test_of_endless_complaints_the_last_are_kept(script: Script) -> None:
    talk = precreate._Talk(bytearray(), bytearray())
    hook = script("/usr/bin/yes | /usr/bin/head -c 1000000 >&2; echo end >&2")
    assert precreate._run(hook, b"", talk) == 0
    assert len(talk.complaints) == 4096 and talk.complaints.endswith(b"y\nend\n")


def test_no_descriptor_and_no_child_is_left(script: Script) -> None:
    before = os.listdir("/proc/self/fd")
    failed(script("exit 1"))
    failed(parsed(hook={"path": "/no/such"}, stages=["precreate"]))
    precreate.filtered(CONFIG, [script("exec /bin/cat")])
    assert len(os.listdir("/proc/self/fd")) == len(before)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
patterns = st.text(alphabet=r"ab[](){}^$*+?|\.-:,1zdwisP<>=!&~", max_size=10) | st.text(max_size=4)
words = st.text(alphabet=string.printable, max_size=8)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "always": st.booleans(),
        "annotations": st.dictionaries(patterns, patterns, max_size=2),
        "commands": st.lists(patterns, max_size=2),
        "hasBindMounts": st.booleans(),
    },
)
files = st.builds(
    lambda when, stages, key, value: content(when, stages=stages) | {key: value},
    conditions | junk,
    st.lists(st.sampled_from(oci_hook.STAGES), max_size=3),
    st.sampled_from(["version", "hook", "when", "stages", "x"]),
    junk,
)
entries = st.fixed_dictionaries(
    {"path": st.just("/bin/true") | junk},
    optional={"args": junk | st.lists(words), "env": junk | st.lists(words), "timeout": junk},
)


def parse_or_refuse(raw: bytes) -> Hook | None:
    try:
        return oci_hook.parse("a.json", raw)
    except HookError as error:
        assert error.message.isprintable() and error.hint.isprintable()
        return None


@cases(200)
@given(st.binary(max_size=60) | (junk | files).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_hook_or_the_one_error(raw: bytes) -> None:
    parse_or_refuse(raw)


@cases(200)
@given(entries)
def test_any_entry_is_a_hook_that_json_can_hold_or_refused(entry: dict[str, Any]) -> None:
    hook = parse_or_refuse(json.dumps(content(hook=entry)).encode())
    if hook is not None:
        assert json.loads(json.dumps(hook.entry()))["path"] == entry["path"]


@cases(300)
@given(conditions, st.dictionaries(words, words | junk, max_size=3), words)
def test_any_conditions_are_met_or_not_or_refused(
    when: dict[str, Any], annotations: dict[str, Any], command: str
) -> None:
    hook = parse_or_refuse(json.dumps(content(when)).encode())
    if hook is None:
        return
    config = CONFIG | {"annotations": annotations, "process": {"args": [command]}}
    met = hooks_d.matching(config, [hook], has_bind_mounts=True)
    assert met in ([], [hook])
    if when.get("always") is False or not when:
        assert not met


@cases(500)
@given(patterns, words)
def test_any_pattern_is_searched_for_or_refused(pattern: str, text: str) -> None:
    try:
        with go_regexp.limited():
            go_regexp.matches(go_regexp.compiled(pattern), text)
    except (go_regexp.PatternError, go_regexp.LimitError) as error:
        assert str(error)


@pytest.mark.parametrize("pattern", ["(?\x80)", "[b-\x01]", "a\x7f**"])
def test_a_pattern_is_never_shown_as_it_is(pattern: str) -> None:
    with pytest.raises(HookError) as caught:
        oci_hook.parse("a.json", json.dumps(content({"commands": [pattern]})).encode())
    assert caught.value.message.isprintable()
