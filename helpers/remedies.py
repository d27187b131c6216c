"""What can be done about what CRIU says; docs/TROUBLESHOOTING.md has it for those who search."""

# Words of CRIU's errors, and the remedy. Searched in order: what is more special comes first.
REMEDIES = (
    # of a dump
    (
        "/secretmem (deleted)",
        "a process has memory of memfd_secret(2), which CRIU may not read: where neither "
        "seccomp: nor a bundle says otherwise, programs are told that there is none",
    ),
    (
        "Can't lookup mount=",
        "a file from outside the container is open in it, often as stdout or stderr: let torpor "
        "handle output, or mount the file's directory into the container; if its path is that of a "
        "POSIX message queue, CRIU cannot save that",
    ),
    (
        "Unsupported proto 262 for socket",
        "a server listens by MPTCP, as those written in Go do: where neither seccomp: nor a bundle "
        "says otherwise it is told that there is none; else set GODEBUG=multipathtcp=0 in env:",
    ),
    (
        "sockets: Can't get 1:16 opt",
        "kernels from 6.16 on need CRIU >= 4.2 for TCP sockets: install a newer criu",
    ),
    (
        "Unknown socket collected",
        "a process has a socket of a family that CRIU does not know, as AF_VSOCK (40) or AF_ALG "
        "(38): switch off what uses it",
    ),
    (
        "External socket is used",
        "a UNIX socket leads out of the container: close it, or mount no host socket into it",
    ),
    (
        "Non-empty write queue on an in-flight socket",
        "a client has sent something to a server on a UNIX socket that does not accept it: the "
        "server is overloaded or hangs; stop again when it does not",
    ),
    (
        "Can't dump nested user namespace",
        "a process is in a user namespace that it made itself, as the sandboxes of browsers and of "
        "bubblewrap do: switch that sandbox off inside the container",
    ),
    (
        "more than one netns",
        "a process is in a network namespace that it made itself, as PrivateNetwork= of a systemd "
        "in the container does: switch that off there",
    ),
    (
        "Can't dump nested uts namespace",
        "a process is in a uts namespace of its own, as ProtectHostname= of a systemd in the "
        "container makes one: set ProtectHostname=no there",
    ),
    (
        "Can't dump nested ipc namespace",
        "a process is in an ipc namespace of its own, as PrivateIPC= of a systemd in the container "
        "makes one: set PrivateIPC=no there",
    ),
    (
        "Can't dump nested pid namespace",
        "a process is in a pid namespace below the container's, as that of a container in it or of "
        "unshare --pid: end it first, or make that one a container of its own",
    ),
    (
        "Can't dump ghost file",
        "a file that was deleted and is still open is larger than 512 MiB, the most that travels "
        "in images: have the program close it, as by rotating its logs",
    ),
    (
        "anon_inode:[userfaultfd]",
        "a process handles its own page faults (userfaultfd(2)), as emulators do: CRIU cannot save "
        "that, so switch it off there",
    ),
    (
        "anon_inode:[perf_event]",
        "a process measures with perf_event_open(2): end the profiler, or switch it off there",
    ),
    (
        "anon_inode:[landlock-ruleset]",
        "a process is just building a Landlock sandbox: stop again when it has done so",
    ),
    ("anon_inode:bpf", "a process has a BPF program or map open: end what loaded it"),
    (
        "Can't dump file",
        "a process has something open of a kind that CRIU does not know: the words in brackets "
        "say what; a device may be left out of devices:",
    ),
    (
        "is a fuse mount but not external",
        "a FUSE file system is mounted inside the container: mount it on the host, and bind it "
        "into the container with mounts:",
    ),
    (
        "unsupported id",
        "a file system of a kind that CRIU does not know is mounted inside the container: mount it "
        "on the host, and bind it into the container with mounts:",
    ),
    (
        "'s mountinfo",
        "PID 1 of the container has changed its root to a directory that is no mount (chroot(2)): "
        "let rootfs: or image: be that directory",
    ),
    (
        "has uprobes vma",
        "somebody traces a program of the container, as with bpftrace: end that first",
    ),
    ("Can't get rlimit", "CRIU lacks CAP_SYS_RESOURCE on this host"),
    # of a restore
    (
        "Can't fork for",
        "another process has the id that one of the container needs, in a pid namespace that they "
        "share: start it again when that has ended",
    ),
    (
        "Can't bind inet socket",
        "another process listens on a port of the container, in a network that they share: 'ss "
        "-lntup' shows which; end it, then start again",
    ),
    (
        "has bad size",
        "a file that the container has open or runs changed while it slept: where its images are "
        "kept (restore-failure: fail), put it back as it was and start again",
    ),
    (
        "has bad mode",
        "the mode of a file that the container has open changed while it slept: where its images "
        "are kept (restore-failure: fail), put it back as it was and start again",
    ),
    (
        "has bad build-ID",
        "a program or library that the container runs was replaced while it slept: where its "
        "images are kept (restore-failure: fail), put it back as it was and start again",
    ),
    (
        "on restore: No such file or directory",
        "a file that the container has open was removed while it slept: where its images are kept "
        "(restore-failure: fail), put it back and start again",
    ),
    (
        "capabilities do not match run time",
        "this processor lacks what the one had on which it fell asleep: wake it there, or on a "
        "newer one",
    ),
    (
        "can't write lsm profile",
        "the AppArmor profile that its processes had is not loaded on this host: load it, then "
        "start again",
    ),
)


def of(messages: list[str]) -> str:
    """What to do about CRIU's errors; empty when they are not known."""
    text = "\n".join(messages)
    return next((remedy for words, remedy in REMEDIES if words in text), "")
