"""A definition is what its author wrote; whatever else it holds ends in one clear message."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor import schema
from torpor.definition import SIZE_LIMIT_BYTES, CheckpointPolicy, Definition, load, parse
from torpor.errors import DefinitionError
from torpor.schema import User

PACKAGING = Path(__file__).parents[2] / "packaging"
SAMPLE = PACKAGING / "torpor.yaml.sample"
BASE = "rootfs: /srv/web\ncommand: [/bin/app]\n"


def said(text: str) -> Definition:
    return parse("web", "web.yaml", text.encode())


def refused(text: str | bytes) -> DefinitionError:
    content = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DefinitionError) as caught:
        parse("web", "web.yaml", content)
    assert caught.value.exit_code == os.EX_CONFIG
    return caught.value


def test_a_sexagesimal_hostname_stays_text() -> None:
    assert said(BASE + "hostname: 12:34:56").hostname == "12:34:56"


def test_on_is_a_key_and_not_true() -> None:
    assert said(BASE + "checkpoint:\n  on: stop").checkpoint.on == {"stop"}


@pytest.mark.parametrize(
    "value", ["022", "yes", "null", "~", "1e3", "0x1F", "2222:22", "2024-01-01", "1_000"]
)
def test_a_variable_keeps_the_text_that_was_written(value: str) -> None:
    assert said(BASE + f"env: {{V: {value}}}").env == (("V", value),)


def test_an_argument_that_looks_like_a_number_stays_text() -> None:
    assert said("rootfs: /r\ncommand: [sleep, 010, no]").command == ("sleep", "010", "no")


@pytest.mark.parametrize(
    ("word", "value"), [("yes", True), ("true", True), ("no", False), ("False", False)]
)
def test_a_boolean_is_one_only_where_the_schema_says_so(word: str, value: bool) -> None:
    definition = said(BASE + f"hostname: {word}\ncheckpoint: {{keep-logs: {word}}}")
    assert (definition.hostname, definition.checkpoint.keep_logs) == (word, value)


@pytest.mark.parametrize("value", ["on", "1", "y", "[yes]", "''"])
def test_other_words_are_not_booleans(value: str) -> None:
    assert "checkpoint.keep-logs" in refused(BASE + f"checkpoint: {{keep-logs: {value}}}").message


def test_a_command_line_is_split_as_a_shell_splits_it() -> None:
    assert said("rootfs: /r\ncommand: sh -c 'echo \"a b\"'").command == ("sh", "-c", 'echo "a b"')


@pytest.mark.parametrize(
    "command", ["[]", "''", '""', "['']", "{a: b}", "[[a]]", '"\'open"', "['a', {b: c}]"]
)
def test_a_command_that_names_no_program_is_refused(command: str) -> None:
    assert refused(f"rootfs: /r\ncommand: {command}").message.startswith(
        "web.yaml:2: key 'command': "
    )


def test_env_is_a_mapping_or_a_list_with_one_meaning() -> None:
    mapping = said(BASE + "env:\n  A: 1\n  B: x=y\n  C:\n")
    listed = said(BASE + "env:\n- A=1\n- B=x=y\n- C=\n")
    assert mapping.env == listed.env == (("A", "1"), ("B", "x=y"), ("C", ""))


@pytest.mark.parametrize(
    "env", ["[A]", "[=1]", "[A=1, A=2]", "{'': 1}", "{A=B: 1}", "{A: [1]}", "A=1", "[[A=1]]"]
)
def test_an_env_that_could_mean_two_things_is_refused(env: str) -> None:
    assert "key 'env'" in refused(BASE + f"env: {env}").message


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("0", User(0)),
        ("1000:100", User(1000, 100)),
        ("www-data", User("www-data")),
        ("app:staff", User("app", "staff")),
        ("1000:staff", User(1000, "staff")),
        ("2147483647", User(2147483647)),
    ],
)
def test_a_user_is_numbers_or_names(text: str, user: User) -> None:
    assert said(BASE + f"user: {text}").user == user


@pytest.mark.parametrize(
    "text", ["2147483648", "-1", "0755", "1:2:3", "a b", "':1'", "'1:'", "9" * 5000, "٣"]
)
def test_a_user_that_is_neither_is_refused(text: str) -> None:
    assert refused(BASE + f"user: {text}").message.startswith("web.yaml:3: key 'user': ")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("RTMIN+3", 37),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("37", 37),
        ("SIGPWR", 30),
    ],
)
def test_a_stop_signal_is_kept_as_its_number(text: str, number: int) -> None:
    assert said(BASE + f"stop-signal: {text}").stop_signal == number


@pytest.mark.parametrize(
    "text", ["0", "65", "-9", "SIGNOPE", "RTMIN+31", "RTMIN+²", "SIG", "15.0", "9" * 5000]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    assert "is not a signal" in refused(BASE + f"stop-signal: '{text}'").message


@pytest.mark.parametrize(
    ("text", "occasions"),
    [
        ("[]", set()),
        ("restart", {"restart"}),
        ("[stop, shutdown, restart]", {"stop", "shutdown", "restart"}),
    ],
)
def test_checkpoint_on_is_a_word_or_a_list(text: str, occasions: set[str]) -> None:
    assert said(BASE + f"checkpoint:\n  on: {text}").checkpoint.on == occasions


def test_what_is_not_said_has_the_documented_default() -> None:
    definition = said(BASE)
    assert definition.checkpoint == CheckpointPolicy(
        frozenset({"stop", "shutdown"}), "start-fresh", 1, False
    )
    assert (definition.cwd, definition.hostname, definition.user, definition.stop_signal) == (
        None,
    ) * 4


@pytest.mark.parametrize("keep", ["0", "-1", "1.5", "one", "9" * 5000, "1_000", "0x10", "[1]"])
def test_keep_is_an_integer_of_at_least_one(keep: str) -> None:
    assert "checkpoint.keep" in refused(BASE + f"checkpoint: {{keep: {keep}}}").message


@pytest.mark.parametrize("key", ["rootfs", "bundle"])
@pytest.mark.parametrize("path", ["srv/web", "./x", "/", "//", "/a/../..", "[]", "''", '"/a\\0b"'])
def test_a_tree_is_an_absolute_path_below_the_root(key: str, path: str) -> None:
    assert refused(f"command: [a]\n{key}: {path}").message.startswith("web.yaml:2: ")


@pytest.mark.parametrize("hostname", ["a b", "a/b", "x" * 65, "é" * 33, '""', '"a\\nb"'])
def test_a_hostname_the_kernel_or_a_prompt_would_choke_on_is_refused(hostname: str) -> None:
    assert "key 'hostname'" in refused(BASE + f"hostname: {hostname}").message


def test_a_bundle_needs_no_command() -> None:
    definition = said("bundle: /srv/bundle//web/")
    assert (definition.bundle, definition.rootfs, definition.command) == (
        "/srv/bundle/web",
        None,
        None,
    )


def test_bundle_and_rootfs_exclude_each_other() -> None:
    assert refused("rootfs: /a\ncommand: [a]\nbundle: /b").message.startswith(
        "web.yaml:3: key 'bundle': "
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "hostname: web"])
def test_a_definition_without_a_tree_is_refused(text: str) -> None:
    assert "is missing, and so is 'bundle'" in refused(text).message


def test_a_rootfs_without_a_command_is_refused() -> None:
    assert "key 'command': is missing" in refused("rootfs: /a").message


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("comand: [x]", ":3: key 'comand'", "Did you mean 'command'?"),
        ("stop_signal: 15", ":3: key 'stop_signal'", "Did you mean 'stop-signal'?"),
        (
            "checkpoint:\n  restore_failure: fail",
            ":4: key 'checkpoint.restore_failure'",
            "'restore-failure'?",
        ),
        ("checkpoint: {on: stopp}", ":3: key 'checkpoint.on'", "Did you mean 'stop'?"),
        ("keep: 1", ":3: key 'keep'", "indented below 'checkpoint:'"),
        ("checkpoint: {user: 1}", ":3: key 'checkpoint.user'", "without indentation"),
        ("checkpoint.keep: 1", ":3: key 'checkpoint.keep'", "indented below 'checkpoint:'"),
        ("zzz: 1", ":3: key 'zzz'", "Known: bundle, checkpoint, command"),
        ("checkpoint:", ":3: key 'checkpoint'", "indent its keys"),
        ("checkpoint: [stop]", ":3: key 'checkpoint'", "Indent its keys"),
        ("hostname:", ":3: key 'hostname'", "Remove the key"),
        ("env:\n- A=1\n- B", ":5: key 'env'", ""),
    ],
)
def test_a_mistake_is_shown_with_its_line_its_key_and_a_way_out(
    text: str, place: str, hint: str
) -> None:
    error = refused(BASE + text)
    assert error.message.startswith(f"web.yaml{place}: ")
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (BASE + "rootfs: /other", 3, "given twice, first in line 1"),
        (BASE + "env: {A: 1, A: 2}", 3, "given twice"),
        (BASE + "env: &a {A: 1}", 3, "anchors"),
        (BASE + "env: *a", 3, "anchors"),
        (BASE + "hostname: !!str web", 3, "tags"),
        (BASE + "hostname: !python/object:os.system web", 3, "tags"),
        (BASE + "---\nrootfs: /b", 3, "second YAML document"),
        ("- rootfs", 1, "is a mapping"),
        ("rootfs", 1, "is a mapping"),
        (BASE + "? [a]\n: b", 3, "a key is a list"),
        (BASE + "env:\n\tA: 1", 4, "is not YAML"),
        (BASE + "env: {A: 1", 3, "is not YAML"),
        (BASE + "hostname: a\x00b", 3, "control character U+0000"),
        (BASE.encode() + b"hostname: \xff", 3, "not UTF-8"),
        (BASE + 'hostname: "\\0"', 3, "NUL"),
        (BASE + "command2: " + "[" * 5000, 3, "nested more than"),
        (BASE + "- " * 5000, 3, ""),
        ("? " * 5000, 1, "nested more than"),
    ],
)
def test_yaml_with_more_than_plain_text_is_refused_in_its_line(
    text: str | bytes, line: int, problem: str
) -> None:
    message = refused(text).message
    assert problem in message
    assert re.match(r"web\.yaml:(\d+): ", message)
    if not problem.startswith("is not YAML"):
        assert message.startswith(f"web.yaml:{line}: ")


def test_a_tab_is_named_as_the_culprit() -> None:
    assert "tab" in refused(BASE + "env:\n\tA: 1").hint


def test_a_message_holds_no_control_character_of_the_file() -> None:
    message = refused(BASE + '"\\e[2J\\r\\n": 1').message
    assert message.isprintable()


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    content = b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()
    assert parse("web", "web.yaml", content).rootfs == "/srv/web"


def test_the_pure_python_parser_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = said(BASE + "env: {A: 022}")
    monkeypatch.delattr(yaml, "CBaseLoader", raising=False)
    assert said(BASE + "env: {A: 022}") == expected
    for text in (
        '"\\UFFFFFFFF": 1',
        '"\\ud800": 1',
        "[" * 5000,
        "- " * 5000,
        "a\x00",
        "%YAML 9.9\n---\na",
    ):
        refused(text)


def test_layout_order_comments_and_notation_do_not_change_the_digest() -> None:
    one = said("rootfs: /srv/web\ncommand: [/bin/app, a b]\nenv: {A: 1, B: 2}\nuser: 5\n")
    two = said(
        "# c\nuser:   '5'\nenv: [B=2, 'A=1']\ncommand: /bin/app 'a b'\nrootfs: \"/srv//web/\"\n"
    )
    assert one.digest() == two.digest()


def test_where_the_file_lies_does_not_change_the_digest() -> None:
    assert parse("web", "a", BASE.encode()).digest() == parse("web", "b", BASE.encode()).digest()


@pytest.mark.parametrize(
    "policy", ["checkpoint: {on: [], keep: 4, keep-logs: yes}", "stop-signal: 37"]
)
def test_a_change_of_policy_does_not_cost_a_sleeper_its_memory(policy: str) -> None:
    assert said(BASE).digest() == said(BASE + policy).digest()


@pytest.mark.parametrize(
    "change", ["cwd: /", "hostname: web", "user: 0", "user: '0:0'", "env: {A: ''}"]
)
def test_a_change_of_the_container_changes_the_digest(change: str) -> None:
    assert said(BASE).digest() != said(BASE + change).digest()


def test_another_name_tree_or_command_is_another_container() -> None:
    digests = {
        said(BASE).digest(),
        parse("db", "web.yaml", BASE.encode()).digest(),
        said("rootfs: /srv/db\ncommand: [/bin/app]").digest(),
        said("rootfs: /srv/web\ncommand: [/bin/app, x]").digest(),
        said("bundle: /srv/web").digest(),
        said("bundle: /srv/web\ncommand: [/bin/app]").digest(),
    }
    assert len(digests) == 6


def test_the_digest_of_a_definition_is_the_same_in_every_version() -> None:
    text = "rootfs: /srv/web\ncommand: [/bin/app]\nenv: {A: é}\ncwd: /x\nhostname: h\nuser: app:1\n"
    assert said(text).digest() == "5380ea5c46f5309b7dbf7d91c8074a97"
    assert said(BASE).digest() == "ed01beed412747df896f0afe91cf3495"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    file = tmp_path / "web.yaml"
    file.write_text(f"rootfs: {tmp_path}/root\ncommand: [a]\n")
    file.chmod(0o644)
    return file


def load_refused(path: Path | str) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        load("web", str(path))
    assert caught.value.message.startswith(str(path))
    return caught.value


def test_a_definition_in_a_file_is_loaded(path: Path) -> None:
    assert load("web", str(path)).rootfs == str(path.parent / "root")


def test_a_tree_that_is_not_there_is_refused_in_its_line(path: Path) -> None:
    (path.parent / "root").rmdir()
    assert f"{path}:1: key 'rootfs': " in load_refused(path).message
    (path.parent / "root").write_text("a file")
    assert "is not a directory" in load_refused(path).message


def test_a_missing_file_is_refused(path: Path) -> None:
    assert "No such file" in load_refused(path.parent / "none.yaml").message


def test_a_directory_is_refused(path: Path) -> None:
    assert "is a directory" in load_refused(path.parent).message


def test_a_fifo_is_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path.parent / "fifo")
    assert "not a regular file" in load_refused(path.parent / "fifo").message


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/proc/self/mem/x"])
def test_a_device_is_refused(device: str) -> None:
    load_refused(device)


def test_a_large_file_is_refused_without_reading_it_all(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(10 * SIZE_LIMIT_BYTES)
    assert "larger than" in load_refused(path).message


def test_a_file_just_under_the_limit_is_loaded(path: Path) -> None:
    with path.open("a") as file:
        file.write("#" * (SIZE_LIMIT_BYTES - path.stat().st_size))
    load("web", str(path))


def test_a_file_that_everybody_may_write_is_refused(path: Path) -> None:
    path.chmod(0o646)
    error = load_refused(path)
    assert "writable by everybody" in error.message
    assert "chmod o-w" in error.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    os.chown(path, 12345, -1)
    assert "belongs to uid 12345" in load_refused(path).message


def test_a_path_with_a_nul_is_refused() -> None:
    load_refused("/etc/torpor/\0.yaml")


words = st.sampled_from(
    [key.rpartition(".")[2] for key in schema.SCHEMA]
    + [
        "checkpoint",
        "on",
        "stop",
        "/srv",
        "[",
        "]",
        "{",
        "}",
        ":",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\t",
        "&a",
        "*a",
        "!t",
    ]
    + [
        "---\n",
        "...\n",
        "?",
        "|\n",
        ">",
        "'",
        '"',
        "#",
        "%YAML 1.1\n",
        "\\",
        "\\ud800",
        "\x00",
        "\ufeff",
        "\u2028",
    ]
)
keys = st.sampled_from([key.partition(".")[0] for key in schema.SCHEMA]) | st.text(max_size=8)
leaves = (
    st.text(max_size=20)
    | st.integers()
    | st.none()
    | st.booleans()
    | st.floats()
    | st.just("/srv/x")
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
quick = settings(
    database=None, max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def parse_or_refuse(content: bytes) -> None:
    try:
        definition = parse("web", "web.yaml", content)
    except DefinitionError as error:
        assert error.message.startswith("web.yaml:")
    else:
        assert re.fullmatch("[0-9a-f]{32}", definition.digest())


@quick
@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_a_definition_error(content: bytes) -> None:
    parse_or_refuse(content)


@quick
@given(st.lists(words | st.text(max_size=3), max_size=30).map("".join))
def test_no_fragments_of_yaml_end_in_anything_but_a_definition_error(text: str) -> None:
    parse_or_refuse(BASE.encode() + text.encode("utf-8", "surrogatepass"))
    parse_or_refuse(text.encode("utf-8", "surrogatepass"))


@quick
@given(st.dictionaries(keys, values, max_size=6))
def test_no_structure_ends_in_anything_but_a_definition_error(tree: dict[str, Any]) -> None:
    parse_or_refuse(
        yaml.safe_dump({"rootfs": "/r", "command": ["a"], **tree}, allow_unicode=True).encode()
    )


@quick
@given(st.dictionaries(st.text("ABC", min_size=1), st.text().filter(lambda text: "\0" not in text)))
def test_every_environment_is_read_back_as_it_was_written(env: dict[str, str]) -> None:
    text = yaml.safe_dump({"rootfs": "/r", "command": ["a"], "env": env})
    assert dict(said(text).env) == env


def uncommented(without: str) -> str:
    """The sample with every `#key: value` switched on, but for the alternative."""
    lines = (
        line.removeprefix("#") if re.match("#(?:  )?[A-Za-z-]+:", line) else line
        for line in SAMPLE.read_text().splitlines()
    )
    return "\n".join(line for line in lines if not line.startswith(without + ":"))


def test_the_sample_is_a_definition_as_it_ships() -> None:
    said(SAMPLE.read_text())


@pytest.mark.parametrize("alternative", ["bundle", "rootfs"])
def test_the_sample_is_a_definition_with_everything_switched_on(alternative: str) -> None:
    definition = said(uncommented(without=alternative))
    assert set(schema.SCHEMA) - set(definition.lines) == {alternative}


def test_the_sample_and_the_manual_know_every_key() -> None:
    manual = (PACKAGING / "man/torpor.yaml.5.md").read_text()
    for key in schema.SCHEMA:
        leaf = key.rpartition(".")[2]
        assert re.search(rf"^#? *{leaf}:", SAMPLE.read_text(), re.MULTILINE), key
        assert re.search(rf"^`{leaf}:`", manual, re.MULTILINE), key


def test_the_defaults_in_the_sample_are_the_defaults() -> None:
    assert said(uncommented(without="bundle")).checkpoint == CheckpointPolicy()
