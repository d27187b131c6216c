"""What CNI plugins say, and the record from which it is undone that they were called."""

import pytest

from torpor import cni
from torpor.errors import RecordError

NETWORK = cni.Network("lan", "/etc/cni/net.d/lan", "1.0.0", ({"type": "bridge"},))


@pytest.mark.parametrize(
    ("reason", "is_so"),
    [
        (
            "failed to allocate for range 0: requested IP address 10.1.2.3 is not available in "
            "range set 10.1.2.1-10.1.2.254",
            True,
        ),
        ("fd00::3 is already allocated to web", True),
        ("requested IP address 10.1.2.30 is not available", False),
        ("requested IP address 110.1.2.3 is not available", False),
        ("10.1.2.3 not in range set 10.9.0.1-10.9.0.254", False),
        ("network is not available", False),
        ('failed to add IP addr 10.1.2.3/24 to "eth0": permission denied', False),
        ("try again later", False),
        ("", False),
    ],
)
def test_an_address_is_taken_only_where_a_plugin_says_that_of_it(reason: str, is_so: bool) -> None:
    assert cni.says_taken(reason, ["10.1.2.3", "fd00::3"]) is is_so


def test_a_record_says_all_that_is_needed_to_undo_it() -> None:
    call = cni.prepare(NETWORK, "eth0", ["10.1.2.3/24"], "02:00:00:00:00:01", [])
    call.result = {"cniVersion": "1.0.0", "ips": []}
    read = cni.parse(cni.serialize(call), "record")
    assert read.arguments == "IgnoreUnknown=1;IP=10.1.2.3;MAC=02:00:00:00:00:01"
    assert (read.interface, read.result) == ("eth0", call.result)
    assert read.plugins == [{"type": "bridge", "name": "lan", "cniVersion": "1.0.0"}]


@pytest.mark.parametrize("text", [b"", b"[]", b'{"plugins": [{}]}', b"\xff"])
def test_anything_else_is_no_record(text: bytes) -> None:
    with pytest.raises(RecordError):
        cni.parse(text, "record")
