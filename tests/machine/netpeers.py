"""Both ends of the network tests: what runs in the container, and peers in other namespaces.

The peers are in namespaces of the machine, as other hosts are: one behind a router (the machine
itself), one plugged into a container's bridge.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from containers import Container, make_busybox
from machine import Machine

ROOTFS = "/srv/network"
PORT = 7000
COMMAND = ["/bin/answer", str(PORT)]

# How the machine and the peer behind it are called between them.
HERE, HERE6 = "198.51.100.1", "2001:db8:51::1"
THERE, THERE6 = "198.51.100.2", "2001:db8:51::2"

# Greets each connection with the host's name and the peer's address, then says back what it hears,
# and on standard output how a connection ended. Says datagrams back too. At "unix" it reads what
# it has left unread in a socket pair and in a connection by path, and leaves the same there again.
_ANSWER = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static struct pollfd open_fds[64];
static int count = 0, pair[2], stream[2];
static void add(int fd) { open_fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN}; }
static void check(int result, const char *what) { if (result < 0) { perror(what); exit(1); } }
static int inet(int type, int port) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, type, 0), off = 0, on = 1;
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    check(bind(fd, (void *)&any, sizeof any), "bind");
    if (type == SOCK_STREAM) check(listen(fd, 16), "listen");
    add(fd);
    return fd;
}
static void unix_stream(void) {
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/tmp/answer"};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(at.sun_path);
    check(bind(listener, (void *)&at, sizeof at), "bind /tmp/answer");
    check(listen(listener, 1), "listen");
    stream[0] = socket(AF_UNIX, SOCK_STREAM, 0);
    check(connect(stream[0], (void *)&at, sizeof at), "connect");
    check(stream[1] = accept(listener, 0, 0), "accept");
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
}
static void leave_unread(void) { write(pair[0], "pair ", 5); write(stream[0], "stream", 6); }
static int greet(int fd) {
    char address[64], name[65];
    struct sockaddr_in6 peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (void *)&peer, &length)) return 0;
    inet_ntop(AF_INET6, &peer.sin6_addr, address, sizeof address);
    gethostname(name, sizeof name);
    return dprintf(fd, "%s %s\n", name, strncmp(address, "::ffff:", 7) ? address : address + 7);
}
static int answer(int fd, char *text, ssize_t length) {
    if (length == 5 && !memcmp(text, "unix\n", 5)) {
        length = read(pair[1], text, 99);
        length += read(stream[1], text + length, 99);
        text[length++] = '\n';
        leave_unread();
    }
    return write(fd, text, length) == length;
}
int main(int argc, char **argv) {
    static char text[65536];
    int port = argc > 1 ? atoi(argv[1]) : 7000;
    int tcp = inet(SOCK_STREAM, port), udp = inet(SOCK_DGRAM, port);
    setvbuf(stdout, 0, _IOLBF, 0);
    unix_stream();
    leave_unread();
    puts("ready");
    for (;;) {
        poll(open_fds, count, -1);
        for (int i = count - 1; i >= 0; i--) {
            int fd = open_fds[i].fd;
            if (!open_fds[i].revents) continue;
            if (fd == tcp) {
                int one = accept(tcp, 0, 0);
                if (one >= 0) { greet(one); add(one); }
                continue;
            }
            if (fd == udp) {
                struct sockaddr_in6 peer;
                socklen_t size = sizeof peer;
                ssize_t length = recvfrom(udp, text, sizeof text, 0, (void *)&peer, &size);
                if (length >= 0) sendto(udp, text, length, 0, (void *)&peer, size);
                continue;
            }
            ssize_t length = read(fd, text, sizeof text - 256);
            if (length > 0 && answer(fd, text, length)) continue;
            printf("connection ended: %s\n", length == 0 ? "EOF" : strerrorname_np(errno));
            close(fd);
            open_fds[i] = open_fds[--count];
        }
    }
}
"""

# HOST PORT: what a server greets with, or the error.
_ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as server:
        print(server.makefile().readline().strip())
except OSError as error:
    print(error)
"""
# HOST PORT: what comes back of a datagram.
_ASK_UDP = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as server:
    server.settimeout(3)
    server.connect((host, port))
    try:
        server.send(b"datagram")
        print(server.recv(99).decode())
    except OSError as error:
        print(error)
"""
# HOST PORT: each line of standard input goes out, and the answer is printed; or how it ended.
_TALK = """
import socket, sys
server = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
stream = server.makefile("rw")
print(stream.readline().strip(), flush=True)
for line in sys.stdin:
    try:
        stream.write(line)
        stream.flush()
        print(stream.readline().strip() or "EOF", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
# HOST PORT BYTES_PER_S: digest and length of all that comes.
_RECEIVE = """
import hashlib, socket, sys, time
digest, total, began_s = hashlib.sha256(), 0, time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as server:
    print("connected", flush=True)
    while block := server.recv(1 << 16):
        digest.update(block)
        total += len(block)
        time.sleep(max(0.0, began_s + total / float(sys.argv[3]) - time.monotonic()))
print(digest.hexdigest(), total)
"""
# HOST PORT BYTES_PER_S BYTES: sends so many at random, and prints their digest and length.
_SEND = """
import hashlib, os, socket, sys, time
digest, total, began_s = hashlib.sha256(), 0, time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as server:
    print("connected", flush=True)
    while left := int(sys.argv[4]) - total:
        block = os.urandom(min(1 << 16, left))
        server.sendall(block)
        digest.update(block)
        total += len(block)
        time.sleep(max(0.0, began_s + total / float(sys.argv[3]) - time.monotonic()))
    server.shutdown(socket.SHUT_WR)
    while server.recv(1 << 16):
        pass
print(digest.hexdigest(), total)
"""
_ROUTED = f"""
ip netns add "$1"
ip link add to-"$1" type veth peer name eth0 netns "$1"
ip addr add {HERE}/24 dev to-"$1"
ip addr add {HERE6}/64 dev to-"$1" nodad
ip link set to-"$1" up
ip -n "$1" link set lo up
ip -n "$1" addr add {THERE}/24 dev eth0
ip -n "$1" addr add {THERE6}/64 dev eth0 nodad
ip -n "$1" link set eth0 up
ip -n "$1" route add default via {HERE}
ip -n "$1" route add default via {HERE6}
"""
_PLUGGED = """
ip netns add "$1"
ip link add to-"$1" type veth peer name eth0 netns "$1"
ip link set to-"$1" master "$2" up
ip -n "$1" link set lo up
ip -n "$1" addr add "$3" dev eth0
ip -n "$1" link set eth0 up
"""


def make_rootfs(machine: Machine) -> str:
    """A root file system with busybox and the answering server."""
    make_busybox(machine, ROOTFS)
    machine.write("/srv/answer.c", _ANSWER)
    machine.run("gcc", "-O1", "-w", "-static", "-o", f"{ROOTFS}/bin/answer", "/srv/answer.c")
    return ROOTFS


class Conversation:
    """One connection of a peer to an answering server, kept while other things happen."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self._process = process
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        self.greeting = self._out.readline().strip()

    def write(self, line: str) -> None:
        self._in.write(f"{line}\n")
        self._in.flush()

    def read(self) -> str:
        """What the server answers, "EOF", or the name of Python's error."""
        return self._out.readline().strip()

    def say(self, line: str) -> str:
        self.write(line)
        return self.read()

    def end(self) -> None:
        self._process.communicate(timeout=30)


class Transfer:
    """A transfer under way."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        self._process = process
        self._connected = process.stdout.readline()

    def is_under_way(self) -> bool:
        return self._process.poll() is None

    def result(self, timeout_s: float = 60) -> tuple[str, int]:
        """SHA-256 and length in bytes of what the peer has sent or received."""
        output, errors = self._process.communicate(timeout=timeout_s)
        assert self._process.returncode == 0, errors
        digest, length = output.split()
        return digest, int(length)


class Peer:
    """A network namespace of the machine from which somebody talks to containers."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self.name = name

    def command(self, script: str, *words: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name, "python3", "-c", script, *words)

    def ask(self, host: str, port: int = PORT) -> str:
        """The greeting of a server: its host name and our address as it sees it; or an error."""
        return self._machine.run(*self.command(_ASK, host, str(port))).stdout.strip()

    def ask_udp(self, host: str, port: int = PORT) -> str:
        """What comes back of "datagram", or an error."""
        return self._machine.run(*self.command(_ASK_UDP, host, str(port))).stdout.strip()

    def talk(self, host: str, port: int = PORT) -> Conversation:
        return Conversation(self._machine.popen(*self.command(_TALK, host, str(port))))

    def receive(self, host: str, port: int, bytes_per_s: int) -> Transfer:
        words = (host, str(port), str(bytes_per_s))
        return Transfer(self._machine.popen(*self.command(_RECEIVE, *words)))

    def send(self, host: str, port: int, bytes_per_s: int, size_bytes: int) -> Transfer:
        words = (host, str(port), str(bytes_per_s), str(size_bytes))
        return Transfer(self._machine.popen(*self.command(_SEND, *words)))

    def remove(self) -> None:
        script = 'ip netns pids "$1" | xargs -r kill -9; ip link del to-"$1"; ip netns del "$1"'
        self._machine.run("sh", "-c", script, "sh", self.name, check=False)


@contextmanager
def routed(machine: Machine, name: str = "there") -> Iterator[Peer]:
    """A peer (THERE, THERE6) for which the machine (HERE, HERE6) is the router."""
    peer = Peer(machine, name)
    try:
        machine.run("sh", "-ec", _ROUTED, "sh", name)
        yield peer
    finally:
        peer.remove()


@contextmanager
def plugged(machine: Machine, bridge: str, address: str, name: str = "beside") -> Iterator[Peer]:
    """A peer with "ADDRESS/LENGTH" on a bridge."""
    peer = Peer(machine, name)
    try:
        machine.run("sh", "-ec", _PLUGGED, "sh", name, bridge, address)
        yield peer
    finally:
        peer.remove()


def namespace(container: Container) -> str:
    """What ip-netns(8) calls the container's network namespace."""
    return f"torpor-{container.name}"


def ip(container: Container, *words: str, check: bool = True) -> str:
    """What ip(8) says in the container's named network namespace, asleep or awake."""
    return container.machine.run("ip", "-n", namespace(container), *words, check=check).stdout
