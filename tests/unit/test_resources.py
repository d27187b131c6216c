"""Limits are checked before systemd could ignore them, and mean the same on its bus."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import cases
from torpor import resources, yaml_tree
from torpor.errors import DefinitionError
from torpor.resources import Resources, bus_properties, parse_resources, unit_lines
from torpor.values import WrongError
from torpor.yaml_tree import Node

UNLIMITED = 18446744073709551615


def parsed(text: str) -> Resources:
    return parse_resources(yaml_tree.read("x", text.encode()))


def refused(text: str) -> WrongError:
    with pytest.raises(WrongError) as caught:
        parsed(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("memory-max: 1G", ["MemoryMax=1G"]),
        ("memory-max: 65536K", ["MemoryMax=65536K"]),
        ("memory-high: 512mb", ["MemoryHigh=512M"]),
        ("memory-low: 0", ["MemoryLow=0"]),
        ("memory-swap-max: 0", ["MemorySwapMax=0"]),
        ("memory-max: 12.5%", ["MemoryMax=12.5%"]),
        ("memory-max: infinity", ["MemoryMax=infinity"]),
        ("cpu-quota: 250%", ["CPUQuota=250%"]),
        ("cpu-weight: idle", ["CPUWeight=idle"]),
        ("cpu-weight: 020", ["CPUWeight=20"]),
        ("allowed-cpus: 8,0-2 3", ["AllowedCPUs=0-3 8"]),
        ("allowed-cpus: [0, 2-3]", ["AllowedCPUs=0 2-3"]),
        ("allowed-memory-nodes: 0", ["AllowedMemoryNodes=0"]),
        ("tasks-max: 100", ["TasksMax=100"]),
        ("tasks-max: 10%", ["TasksMax=10%"]),
        ("io-weight: 500", ["IOWeight=500"]),
        ("io-device-weight: /dev/sda 5", ["IODeviceWeight=/dev/sda 5"]),
        (
            "io-read-bandwidth-max: [/dev/sda 10m, /srv/50%x  infinity]",
            ["IOReadBandwidthMax=/dev/sda 10M", "IOReadBandwidthMax=/srv/50%%x infinity"],
        ),
        ("io-write-iops-max: /dev/sda 1K", ["IOWriteIOPSMax=/dev/sda 1K"]),
        (
            "ip-address-deny: [any, 10.1.2.3/8 2001:db8::1]",
            ["IPAddressDeny=any", "IPAddressDeny=10.0.0.0/8", "IPAddressDeny=2001:db8::1/128"],
        ),
        ("oom-policy: kill", ["OOMPolicy=kill"]),
        ("{tasks-max: 7, memory-max: 1}", ["TasksMax=7", "MemoryMax=1"]),
        ("{}", []),
    ],
)
def test_a_value_becomes_the_line_that_systemd_reads(text: str, lines: list[str]) -> None:
    assert unit_lines(parsed(text)) == lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memory-max: 0", "memory-max: '0' is not a size"),
        ("memory-max: 1.5G", "is not a size"),
        ("memory-max: 1Q", "is not a size"),
        ("memory-max: -1", "is not a size"),
        ("memory-max: 16E", "is not a size"),
        ("memory-max: 0%", "is not a percentage"),
        ("memory-max: 101%", "is not a percentage"),
        ("memory-max: 1.234%", "is not a percentage"),
        ("memory-max: 50%%", "is not a percentage"),
        ("memory-max:", "has no value"),
        ("memory-max: [1G]", "is a list"),
        ("MemoryMax: 1G", "'MemoryMax' is unknown here"),
        ("cpu-quota: 2", "is not a percentage"),
        ("cpu-quota: infinity", "is not a percentage"),
        ("cpu-weight: 0", "is not a weight"),
        ("cpu-weight: 10001", "is not a weight"),
        ("io-weight: idle", "is not a weight"),
        ("allowed-cpus: ''", "names none"),
        ("allowed-cpus: 3-1", "'3-1' is neither"),
        ("allowed-cpus: 8192", "'8192' is neither"),
        ("allowed-cpus: 0x1", "is neither"),
        ("tasks-max: 0", "is not a number of tasks"),
        ("tasks-max: ٣", "is not a number of tasks"),
        ("io-device-weight: 500", "is not a device and a value"),
        ("io-device-weight: sda 500", "is not a device and a value"),
        ("io-device-weight: /dev/../sda 500", "contains '..'"),
        ("io-device-weight: '/dev/\"a 500'", "is not a device and a value"),
        ("io-read-bandwidth-max: /dev/sda 0", "is not a rate"),
        ("ip-address-allow: 300.1.1.1", "is not an IP address"),
        ("ip-address-allow: 10.0.0.0/255.0.0.0", "is not an IP address"),
        ("ip-address-allow: fe80::1%eth0", "is not an IP address"),
        ("ip-address-allow: []", "names none"),
        ("oom-policy: never", "is not one of"),
    ],
)
def test_what_systemd_would_ignore_is_refused(text: str, words: str) -> None:
    assert words in refused(text).problem


def test_a_misspelt_key_gets_the_right_one_and_its_line() -> None:
    wrong = refused("tasks-max: 1\nmemory_max: 1G")
    assert (wrong.hint, wrong.line) == ("Did you mean 'memory-max'?", 2)


@pytest.mark.parametrize(
    ("text", "properties"),
    [
        ("memory-max: 1G", [("MemoryMax", "t", 1 << 30)]),
        ("memory-max: infinity", [("MemoryMax", "t", UNLIMITED)]),
        ("memory-max: 50%", [("MemoryMaxScale", "u", 2147483648)]),
        ("tasks-max: 100%", [("TasksMaxScale", "u", 4294967295)]),
        ("tasks-max: 12", [("TasksMax", "t", 12)]),
        ("cpu-quota: 12.5%", [("CPUQuotaPerSecUSec", "t", 125000)]),
        ("cpu-weight: idle", [("CPUWeight", "t", 0)]),
        ("io-weight: 10", [("IOWeight", "t", 10)]),
        ("allowed-cpus: 0-3 8", [("AllowedCPUs", "ay", b"\x0f\x01")]),
        (
            "io-read-bandwidth-max: [/dev/sda 1M, /dev/sdb infinity]",
            [("IOReadBandwidthMax", "a(st)", [("/dev/sda", 1000000), ("/dev/sdb", UNLIMITED)])],
        ),
        (
            "ip-address-allow: localhost",
            [("IPAddressAllow", "a(iayu)", [(2, b"\x7f\0\0\0", 8), (10, b"\0" * 15 + b"\1", 128)])],
        ),
        ("oom-policy: stop", [("OOMPolicy", "s", "stop")]),
    ],
)
def test_the_bus_has_the_same_value(text: str, properties: list[resources.Property]) -> None:
    assert bus_properties(parsed(text)) == properties


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MemoryMax", 1 << 30, "1G"),
        ("MemoryMax", 1500, "1500"),
        ("MemoryMax", UNLIMITED, "infinity"),
        ("MemoryLow", 0, "0"),
        ("CPUWeight", UNLIMITED, "default"),
        ("CPUWeight", 0, "idle"),
        ("CPUQuotaPerSecUSec", 125000, "12.5%"),
        ("AllowedCPUs", [15, 1, 0, 0, 0, 0, 0, 0], "0-3 8"),
        ("AllowedCPUs", [], "all"),
        ("IODeviceWeight", [(b"/dev/null", 500)], "/dev/null 500"),
        ("IODeviceWeight", [], "none"),
        ("IPAddressDeny", [(2, [10, 0, 0, 0], 8)], "10.0.0.0/8"),
        ("IPAddressDeny", [(2, [127] * 4, 8), (2, [10] * 4, 8)], "10.10.10.10/8 127.127.127.127/8"),
        ("OOMPolicy", b"kill", "kill"),
        ("TasksMax", 7, "7"),
        ("TasksMax", None, "unknown"),
    ],
)
def test_a_value_of_the_bus_is_shown_in_the_words_of_a_unit(
    name: str, value: object, words: str
) -> None:
    assert resources.words(name, value) == words


def test_a_value_that_another_drop_in_replaced_is_found() -> None:
    asked = parsed("{memory-max: 1G, tasks-max: 5, cpu-quota: 50%, memory-high: 50%}")
    found = {"MemoryMax": 2 << 30, "TasksMax": 5, "CPUQuotaPerSecUSec": 500000, "MemoryHigh": 3}
    assert resources.overruled(asked, found) == [("MemoryMax", "2G", "1G")]


def test_limits_without_a_controller_in_the_kernel_are_named_by_it() -> None:
    asked = parsed("{memory-max: 1G, memory-high: 1G, tasks-max: 5, ip-address-deny: any}")
    missing = resources.without_controller(asked, ["cpu", "pids"])
    assert missing == {"memory": ["MemoryMax", "MemoryHigh"]}


KEYS = st.sampled_from(sorted(resources.KEYS))
WORDS = (
    st.text("0123456789.,- KMGTb%", max_size=8)
    | st.text("0123456789abf:./", max_size=9).map(lambda text: "/dev/" * (len(text) % 2) + text)
    | st.sampled_from(["infinity", "idle", "any", "kill", "", "/dev/sd%a 5M", "10.0.0.1/8"])
    | st.text(max_size=8)
)


@cases(800)
@given(KEYS | st.text(max_size=5), WORDS | st.lists(WORDS, max_size=3))
def test_any_mapping_is_sound_lines_and_properties_or_refused(
    key: str, value: str | list[str]
) -> None:
    try:
        found = parse_resources(yaml_tree.Mapping(1, {key: (1, as_node(value))}))
    except WrongError as wrong:
        assert "\n" not in wrong.problem + wrong.hint
        return
    for line in unit_lines(found):
        assert line.isprintable() and "=" in line
    for name, _, _ in bus_properties(found):
        assert name.removesuffix("Scale") in resources.bus_names()


@cases(500)
@given(st.binary(max_size=80))
def test_any_file_is_limits_or_refused(content: bytes) -> None:
    try:
        parse_resources(yaml_tree.read("x", content))
    except (DefinitionError, WrongError):
        pass


def as_node(value: str | list[str]) -> Node:
    if isinstance(value, list):
        return yaml_tree.Sequence(1, [as_node(item) for item in value])
    return yaml_tree.Scalar(1, value, absent=False)


@cases(200)
@given(st.sets(st.integers(0, 8191), min_size=1, max_size=20))
def test_a_set_of_cpus_is_the_same_in_words_and_bits(cpus: set[int]) -> None:
    found = parsed(f"allowed-cpus: {' '.join(map(str, cpus))}")
    [(_, _, bitmap)] = bus_properties(found)
    assert isinstance(bitmap, bytes)
    assert {
        bit
        for bit in range(8192)
        if bitmap[bit // 8 : bit // 8 + 1] and bitmap[bit // 8] >> bit % 8 & 1
    } == cpus
