"""The first definition that somebody gets."""

import pytest

from torpor import definition, podman
from torpor.errors import TorporError
from torpor.json_shape import ShapeError
from torpor.new_definition import _SUGGESTIONS, Entry, text
from torpor.podman import Known

ENTRIES = [
    Entry("image", "oci:/srv/images:web", "Shared."),
    Entry("command", ["/bin/sh", "-c", "echo 'a: #b' \"c\"; exec \t x"]),
    Entry("env", ["A=b: c", "EMPTY=", "NULL=null"]),
]


def test_what_is_written_is_what_was_meant() -> None:
    found = definition.parse("web", "/etc/torpor/web.yaml", text("web", ENTRIES, ["A note: yes"]))
    assert str(found.image) == "oci:/srv/images:web"
    assert found.command == ("/bin/sh", "-c", "echo 'a: #b' \"c\"; exec \t x")
    assert dict(found.env) == {"A": "b: c", "EMPTY": "", "NULL": "null"}


@pytest.mark.parametrize("key", sorted(_SUGGESTIONS))
def test_each_suggestion_can_be_switched_on(key: str) -> None:
    written = text("web", [Entry("rootfs", "/srv/web"), Entry("command", ["/bin/x"])], []).decode()
    if key == "command":
        assert f"#{key}:" not in written
        return
    assert f"\n#{key}: " in written
    switched = written.replace(f"\n#{key}: ", f"\n{key}: ")
    assert definition.parse("web", "/etc/torpor/web.yaml", switched.encode()) != definition.parse(
        "web", "/etc/torpor/web.yaml", written.encode()
    )


INSPECTED = {
    "Id": "0123456789ab" * 5,
    "Image": "f" * 64,
    "ImageName": "docker.io/library/redis:8",
    "EffectiveCaps": ["CAP_SETUID", "CAP_CHOWN"],
    "Mounts": [
        {"Type": "bind", "Source": "/srv/data", "Destination": "/data", "RW": False},
        {
            "Type": "volume",
            "Source": "/var/lib/containers/v/_data",
            "Destination": "/v",
            "RW": True,
        },
        {"Type": "tmpfs", "Source": "tmpfs", "Destination": "/run"},
    ],
    "Config": {
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["redis-server", "--save", ""],
        "Env": ["PATH=/bin", "REDIS=8", "container=podman", "HOME=/root"],
        "WorkingDir": "/data",
        "User": "999",
        "Hostname": "0123456789ab",
        "StopSignal": "SIGINT",
    },
    "HostConfig": {
        "NetworkMode": "bridge",
        "PortBindings": {
            "6379/tcp": [{"HostIp": "127.0.0.1", "HostPort": "6379"}],
            "53/udp": [{"HostIp": "", "HostPort": "5353"}],
        },
        "Memory": 1 << 29,
        "PidsLimit": 2048,
        "NanoCpus": 1_500_000_000,
        "ReadonlyRootfs": True,
        "Privileged": False,
    },
}


def known(monkeypatch: pytest.MonkeyPatch, said: object) -> Known:
    monkeypatch.setattr(podman, "_json", lambda argv, problem: [said])
    monkeypatch.setattr("torpor.process.find", lambda program: f"/usr/bin/{program}")
    return Known("redis")


def test_what_podman_says_is_said_as_a_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    found = known(monkeypatch, INSPECTED)
    written = text("redis", found.entries("oci:/srv/redis"), found.notes)
    made = definition.parse("redis", "/etc/torpor/redis.yaml", written)
    assert made.command == ("docker-entrypoint.sh", "redis-server", "--save")
    assert dict(made.env) == {"REDIS": "8"}
    assert (made.cwd, made.hostname, made.read_only) == ("/data", None, True)
    assert made.user is not None and made.user.user == 999
    assert [(one.source, one.destination, one.options) for one in made.mounts] == [
        ("/srv/data", "/data", ("ro",)),
        ("/var/lib/containers/v/_data", "/v", ()),
    ]
    assert made.stop_signal == 2
    assert made.network is not None and len(made.network.publish) == 2
    assert "/run: a mount of type tmpfs is not taken over" in written.decode()
    assert "# In podman it was bridge." in written.decode()


@pytest.mark.parametrize(
    "said", [None, [], {"Config": []}, {"Config": {"Cmd": "x"}}, {"Mounts": [1]}, {"Image": 3}]
)
def test_what_podman_cannot_have_said_is_refused(
    monkeypatch: pytest.MonkeyPatch, said: object
) -> None:
    with pytest.raises((TorporError, ShapeError), match="cannot be used"):
        known(monkeypatch, said)
