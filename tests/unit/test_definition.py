"""A definition is what its author wrote; whatever else it holds ends in one clear message."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import oci_defaults, placement, rlimits, schema
from torpor.accounts import User
from torpor.definition import SIZE_LIMIT_BYTES, CheckpointPolicy, Definition, load, parse
from torpor.errors import DefinitionError

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


@pytest.mark.parametrize(
    ("first", "second"), [("rootfs", "bundle"), ("bundle", "image"), ("image", "rootfs")]
)
def test_a_container_has_one_root_file_system(first: str, second: str) -> None:
    message = refused(f"{first}: /a\ncommand: [a]\n{second}: /b").message
    assert message.startswith(f"web.yaml:3: key '{second}': ")
    assert "not both" in message


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "hostname: web"])
def test_a_definition_without_a_tree_is_refused(text: str) -> None:
    assert "is missing, and so are 'image' and 'bundle'" in refused(text).message


@pytest.mark.parametrize("tree", ["rootfs: /a", "image: /a"])
def test_a_directory_without_a_command_is_refused(tree: str) -> None:
    assert "key 'command': is missing" in refused(tree).message


def test_an_image_layout_says_itself_what_to_run() -> None:
    assert said("image: oci:/srv/layout:1").command is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("userns: web\nidmap: 0:100000:10", "3: key 'userns': is given, and idmap: too"),
        ("namespaces: {user: host}\nidmap: 0:1:10", "3: key 'namespaces': user is host, but idmap"),
        (
            "userns: web\nnamespaces: {user: 'container:db'}",
            "4: key 'namespaces': user is container, but userns",
        ),
        ("namespaces: {user: own}", "3: key 'namespaces': user is own, but no ids are mapped"),
        ("namespaces: {net: 'container:web'}", "3: key 'namespaces': net: it cannot join itself"),
        ("idmap: 0:1:10\nnamespaces: {net: host}", "4: key 'namespaces': net is host, but /sys"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(text: str, problem: str) -> None:
    assert refused(BASE + text).message.startswith(f"web.yaml:{problem}")


def test_a_user_namespace_of_a_bundle_may_have_the_bundles_ids() -> None:
    assert said("bundle: /srv/web\nnamespaces: {user: own}").namespaces["user"].how == "own"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mounts:\n- /a:/b\n- /a:b\n", 5),
        ("namespaces:\n  net: own\n  pid: mine\n", 5),
        ("annotations:\n  a: b\n  c: [d]\n", 5),
        ("devices:\n- /dev/null\n- null\n", 5),
        ("capabilities:\n  add:\n  - chown\n  - nope\n", 6),
        ("rlimits:\n  nofile: 1\n  core: x\n", 5),
        ("idmap:\n- 0:1:1\n- 1:x:1\n", 5),
        ("volumes:\n- /a\n- b\n", 5),
        ("groups:\n- 1\n- a b\n", 5),
        ("cgroups: mine\n", 3),
        ("masked-paths:\n- /a\n- b\n", 5),
        ("selinux:\n  process-label: a:b:c:s0\n  mount-label: a b\n", 5),
    ],
)
def test_a_mistake_in_a_list_or_mapping_is_shown_with_its_own_line(text: str, line: int) -> None:
    message = refused(BASE + text).message
    assert message.startswith(f"web.yaml:{line}: key '{text.partition(':')[0]}': ")


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
        ("zzz: 1", ":3: key 'zzz'", "Known: after, annotations, bundle"),
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
    "policy",
    [
        "checkpoint: {on: [], keep: 4, keep-logs: yes}",
        "checkpoint: {on-crash: rollback, snapshots: {keep: 9, max-size: 10G}}",
        "checkpoint: {tcp: keep}",
        "stop-signal: 37",
        "slice: a.slice",
        "resources: {memory-max: 1G}",
        "after: [db]",
        "requires: [db]",
    ],
)
def test_what_concerns_the_unit_or_the_policy_does_not_cost_a_sleeper_its_memory(
    policy: str,
) -> None:
    assert said(BASE).digest() == said(BASE + policy).digest()


CHANGES = (
    "systemd: always\n",
    "notify: container\n",
    "cwd: /",
    "hostname: web",
    "user: 0",
    "user: '0:0'",
    "env: {A: ''}",
    "read-only: yes",
    "groups: [1]",
    "groups: [staff]",
    "umask: 022",
    "umask: 0",
    "rlimits: {core: 0}",
    "rlimits: {core: 1}",
    "capabilities: [chown]",
    "capabilities: {add: chown}",
    "capabilities: {drop: chown}",
    "devices: /dev/null",
    "devices: /dev/null:r",
    "seccomp: unconfined",
    "seccomp: /etc/a.json",
    "selinux: disabled",
    "selinux: {mount-label: 'a:b:c'}",
    "masked-paths: []",
    "masked-paths: [/a]",
    "readonly-paths: [/a]",
    "shm-size: 1M",
    "mounts: ['/a:/b']",
    "mounts: ['/a:/b:ro']",
    "mounts: ['/a:/b:bind']",
    "mounts: ['a:/b']",
    "volumes: [/a]",
    "namespaces: {net: host}",
    "namespaces: {net: 'container:db'}",
    "network: none",
    "network: host",
    "network: {container: db}",
    "network: {bridge: br0}",
    "network: {bridge: br0, publish: 80:80}",
    "network: {bridge: br0, publish: 80:80/udp}",
    "network: {cni: br0}",
    "idmap: 0:1:10",
    "idmap: 0:1:11",
    "userns: web",
    "annotations: {a: b}",
    "annotations: {a: ''}",
    "cgroups: systemd",
    "cgroups: cgroupfs:/a",
)


def test_every_change_of_the_container_is_another_digest() -> None:
    digests = {said(BASE + change).digest() for change in ("", *CHANGES)}
    assert len(digests) == len(CHANGES) + 1


def test_every_key_is_of_the_container_or_of_its_unit_and_policy() -> None:
    changing = {change.partition(":")[0] for change in CHANGES}
    neutral = {"stop-signal", "slice", "resources", "after", "requires", "register"}
    trees = {"bundle", "rootfs", "image", "command"}
    sections = {key.partition(".")[0] for key in schema.SCHEMA}
    assert sections == changing | neutral | trees | {"checkpoint"}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("annotations: {a: 1, b: 2}", "annotations:\n  b: 2  # c\n  a: 1"),
        ("namespaces: {net: host, ipc: own}", "namespaces: {ipc: own, net: host}"),
        ("rlimits: {core: 0, nofile: '1:2'}", "\nrlimits: {NOFILE: '1:2', RLIMIT_CORE: '0:0'}"),
        ("capabilities: [chown, kill]", "capabilities: [CAP_KILL, CAP_CHOWN]"),
        ("mounts: ['/a:/b']", "\n\nmounts:\n- destination: /b/\n  source: //a"),
        ("devices: [/dev/null]", "\n\n\ndevices: /dev//null:/dev/null:rwm"),
        ("shm-size: 1M", "shm-size: 1024k"),
        ("umask: 022", "umask: '22'"),
        (
            "network: {bridge: br0, ipv6: 'fd00::/64', mac: 02:0A:00:00:00:01, publish: 80:8}",
            "network:\n  publish: [80:8/tcp]\n  mac: 02:0a:00:00:00:01\n  address: auto\n"
            "  bridge: br0\n  ipv6: FD00:0::0/64",
        ),
    ],
)
def test_the_same_said_in_other_words_or_lines_is_the_same_digest(one: str, two: str) -> None:
    assert said(BASE + one).digest() == said(BASE + two).digest()


def test_another_name_tree_or_command_is_another_container() -> None:
    digests = {
        said(BASE).digest(),
        parse("db", "web.yaml", BASE.encode()).digest(),
        said("rootfs: /srv/db\ncommand: [/bin/app]").digest(),
        said("rootfs: /srv/web\ncommand: [/bin/app, x]").digest(),
        said("bundle: /srv/web").digest(),
        said("bundle: /srv/web\ncommand: [/bin/app]").digest(),
        said("image: /srv/web\ncommand: [/bin/app]").digest(),
        said("image: oci:/srv/web\ncommand: [/bin/app]").digest(),
        said("image: oci:/srv/web:1\ncommand: [/bin/app]").digest(),
    }
    assert len(digests) == 9


def test_the_digest_of_a_definition_is_the_same_in_every_version() -> None:
    text = "rootfs: /srv/web\ncommand: [/bin/app]\nenv: {A: é}\ncwd: /x\nhostname: h\nuser: app:1\n"
    assert said(text).digest() == "5380ea5c46f5309b7dbf7d91c8074a97"


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (BASE, "ed01beed412747df896f0afe91cf3495"),
        ("bundle: /srv/bundle/web\n", "cb4661ec6a80859ffa27db26a288441b"),
        (
            "bundle: /srv/bundle/web\ncommand: [/bin/app, --fast]\nenv: {B: 2, A: 1}\n"
            "stop-signal: TERM\n",
            "4fd3e2c82c4f35088f15a3d784f8f0d3",
        ),
        (
            "rootfs: /srv/web\ncommand: /bin/app 'a b'\ncwd: /srv\nhostname: h\nuser: app:staff\n",
            "a2449eaecb31865f548d785b34b78a4b",
        ),
        (
            BASE + "user: 7\ncheckpoint: {on: restart, keep: 3}\n",
            "1a0e477c5cd64e5b4d210f46066d473f",
        ),
    ],
)
def test_a_sleeper_of_an_older_torpor_keeps_its_memory(text: str, digest: str) -> None:
    assert said(text).digest() == digest


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


def parse_or_refuse(content: bytes) -> None:
    try:
        definition = parse("web", "web.yaml", content)
    except DefinitionError as error:
        assert error.message.startswith("web.yaml:")
    else:
        assert re.fullmatch("[0-9a-f]{32}", definition.digest())


@cases(300)
@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_a_definition_error(content: bytes) -> None:
    parse_or_refuse(content)


@cases(300)
@given(st.lists(words | st.text(max_size=3), max_size=30).map("".join))
def test_no_fragments_of_yaml_end_in_anything_but_a_definition_error(text: str) -> None:
    parse_or_refuse(BASE.encode() + text.encode("utf-8", "surrogatepass"))
    parse_or_refuse(text.encode("utf-8", "surrogatepass"))


@cases(60)
@given(st.dictionaries(keys, values, max_size=6))
def test_no_structure_ends_in_anything_but_a_definition_error(tree: dict[str, Any]) -> None:
    parse_or_refuse(
        yaml.safe_dump({"rootfs": "/r", "command": ["a"], **tree}, allow_unicode=True).encode()
    )


@cases(100)
@given(st.dictionaries(st.text("ABC", min_size=1), st.text().filter(lambda text: "\0" not in text)))
def test_every_environment_is_read_back_as_it_was_written(env: dict[str, str]) -> None:
    text = yaml.safe_dump({"rootfs": "/r", "command": ["a"], "env": env})
    assert dict(said(text).env) == env


SAID = {  # what each key takes, and the beginnings of what it does not
    "image": ["/srv/image", "oci:/srv/layout:1", "oci:", "oci:/:x"],
    "read-only": ["yes", "maybe"],
    "groups": ["[1, staff]", "[-1]", "{a: 1}"],
    "umask": ["022", "8", "0o22"],
    "rlimits": ["{nofile: '1:2', core: unlimited}", "{nofile: unlimited}", "{x: 1}"],
    "capabilities": ["[all]", "{add: kill, drop: chown}", "{add: kill, drop: kill}", "[nope]"],
    "devices": ["/dev/null:/dev/x:rw", "[/dev]", "a:b:c:d"],
    "seccomp": ["unconfined", "/etc/s.json", "s.json"],
    "selinux": ["disabled", "{process-label: 'a:b:c:s0'}", "{label: x}", "enforcing"],
    "masked-paths": ["[/a, /b]", "/", "[..]"],
    "readonly-paths": ["[]", "[[/a]]"],
    "shm-size": ["64M", "0", "-1", "99999999999999999999"],
    "mounts": ["['/a:/b:ro', 'v:/c', 'tmpfs:/t']", "['/a:/b', '/c:/b']", "[{destination: /a}]"],
    "volumes": ["[/a, /b]", "/", '["/a\\tb"]'],
    "namespaces": ["{net: host, ipc: 'container:db'}", "{mnt: host}", "{user: own}", "{pid: x}"],
    "network": [
        "{bridge: br0, subnet: 10.0.0.0/24, address: 10.0.0.9, publish: ['8080:80', '53:53/udp']}",
        "host",
        "{bridge: br0, ipv6: 'fd00::/64', gateway: 10.0.0.1, mtu: 1500, mac: 02:00:00:00:00:01}",
        "{cni: lan, address: 10.0.0.9, publish: 8000-8010:80-90}",
        "{container: db}",
        "{namespace: /run/netns/x, publish: 80}",
    ],
    "idmap": ["0:100000:65536", "{uids: '0:1:2', gids: '0:1:2'}", "['0:1:2', '1:5:5']", "1:2:3"],
    "userns": ["web", "-1"],
    "annotations": ["{a: b}", "{'': b}", "{a: [b]}"],
    "cgroups": ["unit", "systemd", "cgroupfs:/a", "none", "cgroupfs:/"],
    "slice": ["a-b.slice", "/a.slice/a-b.slice", "a--b.slice", "x"],
    "resources": ["{memory-max: 1G}", "{memory-max: lots}", "[1]"],
    "after": ["[db, a.service]", "[/]"],
    "requires": ["[db]", "['@']"],
    "bundle": ["/srv/bundle"],
    "hostname": ["h", "a b"],
    "user": ["web:staff", "1:1:1"],
    "checkpoint": ["{on: stop, keep: 2}", "{on: never}", "{keep: 0}", "{tcp: keep}", "{tcp: x}"],
}
hostile = st.text(st.sampled_from([*"[]{}:,'/&*!\n\t 0a-é"]), max_size=8)
lines = st.sampled_from(sorted(SAID)).flatmap(
    lambda key: (st.sampled_from(SAID[key]) | hostile).map(lambda value: f"{key}: {value}\n")
)


@cases(300)
@given(st.lists(lines, max_size=6), st.booleans())
def test_no_definition_ends_in_anything_but_a_definition_error(
    written: list[str], has_base: bool
) -> None:
    parse_or_refuse("".join([BASE if has_base else "", *written]).encode())


@pytest.mark.parametrize("key", sorted(SAID))
def test_each_key_takes_the_first_of_its_examples(key: str) -> None:
    base = BASE if key not in ("bundle", "image") else "command: [a]\n"
    assert said(f"{base}{key}: {SAID[key][0]}\n").lines[key]


TREES = {"rootfs", "image", "bundle"}
MAPS = {"idmap", "userns"}


def uncommented(*without: str) -> str:
    """The sample with every `#key: value` switched on, but for these alternatives."""
    lines = (
        line.removeprefix("#") if re.match("#(?:  ){0,2}[A-Za-z-]+:", line) else line
        for line in SAMPLE.read_text().splitlines()
    )
    return "\n".join(line for line in lines if line.partition(":")[0] not in without)


def test_the_sample_is_a_definition_as_it_ships() -> None:
    said(SAMPLE.read_text())


@pytest.mark.parametrize("tree", sorted(TREES))
@pytest.mark.parametrize("ids", sorted(MAPS))
def test_the_sample_is_a_definition_with_everything_switched_on(tree: str, ids: str) -> None:
    alternatives = (TREES | MAPS) - {tree, ids}
    definition = said(uncommented(*alternatives))
    assert set(schema.SCHEMA) - set(definition.lines) == alternatives


def test_the_sample_and_the_manual_know_every_key() -> None:
    manual = (PACKAGING / "man/torpor.yaml.5.md").read_text()
    for key in schema.SCHEMA:
        leaf = key.rpartition(".")[2]
        assert re.search(rf"^#? *{leaf}:", SAMPLE.read_text(), re.MULTILINE), key
        assert re.search(rf"^`{leaf}:`", manual, re.MULTILINE), key


def test_the_defaults_in_the_sample_are_the_defaults() -> None:
    default = said("image: oci:/srv/images:redis\ncommand: [a]\n")
    definition = said(uncommented("rootfs", "bundle", "userns", "idmap"))
    assert definition.checkpoint == CheckpointPolicy() == default.checkpoint
    assert (definition.cgroups, definition.groups) == (default.cgroups, default.groups)
    assert (definition.shm_size_bytes, definition.slice) == (
        oci_defaults.SHM_SIZE_BYTES,
        placement.DEFAULT_SLICE,
    )
    assert definition.rlimits == rlimits.DEFAULT
