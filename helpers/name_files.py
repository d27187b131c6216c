"""What a container's /etc/resolv.conf and /etc/hosts hold: taken from the host's as they are now.

resolv.conf(5), hosts(5). A file of the host that cannot be read keeps no container from starting:
what it would have said is missing then, and a comment says why.
"""

import os

from torpor import regular_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOST = "host"  # the container's loopback is the host's
OWN = "own"  # it is another one: a name server on the host's is out of reach

_RESOLV_CONF = "/etc/resolv.conf"
# Whom systemd-resolved itself asks, see systemd-resolved.service(8), "/ETC/RESOLV.CONF".
_RESOLV_CONF_OF_RESOLVED = "/run/systemd/resolve/resolv.conf"
_HOSTS = "/etc/hosts"
_OWN_LOOPBACK = "127.0.1.1"  # as Debian has it for a host name without an address
_LIMIT_BYTES = 16 << 20  # lists of hosts to be blocked are megabytes long

_LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def resolv_conf_of_host() -> bytes:
    """For a container in the host's network."""
    content, missing = _read(_RESOLV_CONF)
    return content or _comment(missing or f"{_RESOLV_CONF} of the host is empty.")


def resolv_conf() -> bytes:
    """For a container with another loopback than the host's: only name servers that it can reach.

    Where the host asks a resolver of its own, as systemd-resolved, it holds whom that asks.
    """
    content, missing = _read(_RESOLV_CONF)
    if any(map(_is_in_reach, _servers(content))):
        return _without_unreachable(content)
    upstream, _ = _read(_RESOLV_CONF_OF_RESOLVED)
    if any(map(_is_in_reach, _servers(upstream))):
        return _without_unreachable(upstream)
    reason = missing or f"The host has no name server in {_RESOLV_CONF} but on its own loopback."
    return _comment(reason) + _without_unreachable(content)


def hosts_of_host(names: "Iterable[str]") -> bytes:
    """For a container in the host's network, with names of its own, which the host has not."""
    content, missing = _read(_HOSTS)
    if missing:
        content = _comment(missing) + _LOCALHOST.encode()
    known = {word for line in content.split(b"\n") for word in line.partition(b"#")[0].split()[1:]}
    new = [name for name in dict.fromkeys(filter(None, names)) if name.encode() not in known]
    return content + (f"{_OWN_LOOPBACK}\t{' '.join(new)}\n".encode() if new else b"")


def hosts(addresses: "Iterable[str]", names: "Iterable[str]") -> bytes:
    """For a container with addresses ("ADDRESS" or "ADDRESS/LENGTH") and names of its own.

    What is empty, or there twice, is left out.
    """
    called = " ".join(dict.fromkeys(filter(None, names)))
    bare = (address.partition("/")[0] for address in addresses if address)
    lines = (f"{address}\t{called}\n" for address in bare if called)
    return (_LOCALHOST + "".join(lines)).encode()


def _read(path: str) -> tuple[bytes, str]:
    """The content of a file of the host, which may be a link; or nothing, and why."""
    try:
        content, _ = regular_file.read(path, _LIMIT_BYTES)
    except OSError as error:
        return b"", f"{path} of the host: {error.strerror}."
    return content if content.endswith(b"\n") or not content else content + b"\n", ""


def _comment(text: str) -> bytes:
    return f"# {text}\n".encode()


def _servers(content: bytes) -> "Iterator[str]":
    return filter(None, map(_server, content.split(b"\n")))


def _server(line: bytes) -> str:
    """The address of a line `nameserver ADDRESS`, which begins in the first column; else empty."""
    words = line.split()
    is_server = len(words) > 1 and line.startswith(b"nameserver") and words[0] == b"nameserver"
    return os.fsdecode(words[1]).lower() if is_server else ""


def _without_unreachable(content: bytes) -> bytes:
    lines = content.split(b"\n")
    return b"\n".join(line for line in lines if not (said := _server(line)) or _is_in_reach(said))


def _is_in_reach(server: str) -> bool:
    """Whether another network namespace than the host's can reach a name server's address.

    Not by one that means whoever asks, nor one of IPv6 that holds on a link of the host's alone.
    In IPv4 those are forwarded; some clouds have their name server at 169.254.169.254.
    """
    import ipaddress

    try:
        address = ipaddress.ip_address(server)
    except ValueError:  # 127.1 is an address too, to those who read this file
        return not server.startswith("127.")
    mapped = getattr(address, "ipv4_mapped", None) or address
    on_link = address.version == 6 and address.is_link_local
    return not (mapped.is_loopback or mapped.is_unspecified or on_link)
