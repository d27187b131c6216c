#!/usr/bin/python3
"""failing_fs.py MOUNTPOINT BACKING RULES - a file system that fails, or stops, where it is told to.

What is in the directory BACKING appears at MOUNTPOINT. Each line of the file RULES, which may
change at any time, is "OPERATION ACTION PATTERN": an operation on a path below MOUNTPOINT that
matches the pattern (fnmatch) ends in the error that ACTION names, such as EIO or ENOSPC; "stop"
stops this process with the request in its hands, so that not even SIGKILL ends who waits for it.
It speaks the kernel's protocol (include/uapi/linux/fuse.h, version 7.31) over /dev/fuse itself:
no package is needed in the machine.
"""

import ctypes
import errno
import fnmatch
import os
import signal
import stat
import struct
import sys
from collections.abc import Callable

_HEADER = struct.Struct("<IIQQIIII")  # fuse_in_header
_ATTR = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<4Q2I")
_OPENED = struct.Struct("<QII")
_IO = struct.Struct("<QQIIQII")  # fuse_read_in, fuse_write_in
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_DIRENT = struct.Struct("<QQII")
_MAX_WRITE = 128 << 10
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE, _SET_MTIME = 1, 2, 4, 8, 32
_NO_REPLY = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET

Reply = bytes


def mount(mountpoint: str) -> int:
    """Mount a FUSE there; the descriptor over which it is served."""
    if not os.path.exists("/dev/fuse"):
        os.mknod("/dev/fuse", stat.S_IFCHR | 0o600, os.makedev(10, 229))
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"failing", mountpoint.encode(), b"fuse.failing", 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)
    return fd


def _text(word: bytes) -> str:
    return os.fsdecode(word.rstrip(b"\0"))


class Server:
    """Answers one request after the other."""

    def __init__(self, backing: str, rules: str) -> None:
        self._backing = backing
        self._rules = rules
        self._paths = {1: ""}  # node → path below the backing directory
        self._nodes = {"": 1}
        self._handlers: dict[int, tuple[str, Callable[[int, bytes], Reply]]] = {
            1: ("lookup", self._lookup),
            3: ("getattr", self._getattr),
            4: ("setattr", self._setattr),
            5: ("readlink", lambda node, _: os.fsencode(os.readlink(self._full(node)))),
            6: ("symlink", self._symlink),
            8: ("mknod", self._mknod),
            9: ("mkdir", self._mkdir),
            10: ("unlink", lambda node, body: self._remove(os.unlink, node, body)),
            11: ("rmdir", lambda node, body: self._remove(os.rmdir, node, body)),
            12: ("rename", lambda node, body: self._rename(node, body, 8)),
            14: ("open", self._open),
            15: ("read", self._read),
            16: ("write", self._write),
            17: ("statfs", self._statfs),
            18: ("release", self._release),
            20: ("fsync", self._fsync),
            25: ("flush", lambda *_: b""),
            26: ("init", self._init),
            27: ("opendir", lambda *_: _OPENED.pack(0, 0, 0)),
            28: ("readdir", self._readdir),
            29: ("releasedir", lambda *_: b""),
            30: ("fsyncdir", lambda *_: b""),
            35: ("create", self._create),
            45: ("rename", lambda node, body: self._rename(node, body, 16)),
        }

    def serve(self, fd: int) -> None:
        while request := os.read(fd, _MAX_WRITE + 4096):
            _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
            if opcode in _NO_REPLY:
                continue
            error, reply = 0, b""
            try:
                name, handler = self._handlers[opcode]
                body = request[_HEADER.size :]
                self._obey(name, node, body)
                reply = handler(node, body)
            except KeyError:
                error = errno.ENOSYS
            except OSError as fault:
                error, reply = fault.errno or errno.EIO, b""
            try:
                os.write(fd, struct.pack("<IiQ", 16 + len(reply), -error, unique) + reply)
            except FileNotFoundError:
                pass  # who asked was killed meanwhile

    def _obey(self, name: str, node: int, body: bytes) -> None:
        """Fail or stop where a rule says so."""
        path = self._paths.get(node, "")
        if name in ("create", "mkdir", "mknod", "unlink", "rmdir", "lookup", "rename"):
            skipped = {"create": 16, "mkdir": 8, "mknod": 16, "rename": len(body)}.get(name, 0)
            last = body[skipped:] if name != "rename" else body.rstrip(b"\0").rpartition(b"\0")[2]
            path = f"{path}/{_text(last)}".lstrip("/")
        with open(self._rules, encoding="utf-8") as rules:
            for line in rules:
                operation, action, pattern = line.split()
                if operation == name and fnmatch.fnmatch(path, pattern):
                    if action == "stop":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    else:
                        number = getattr(errno, action)
                        raise OSError(number, os.strerror(number))

    def _full(self, node: int) -> str:
        return f"{self._backing}/{self._paths[node]}".rstrip("/")

    def _child(self, node: int, name: str) -> str:
        return f"{self._paths[node]}/{name}".lstrip("/")

    def _attributes(self, found: os.stat_result) -> bytes:
        times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
        parts = (ns % 10**9 for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns))
        return _ATTR.pack(
            found.st_ino, found.st_size, found.st_blocks, *times, *parts, found.st_mode,
            found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, 4096, 0,
        )  # fmt: skip

    def _entry(self, path: str) -> bytes:
        found = os.lstat(f"{self._backing}/{path}")
        node = self._nodes.get(path)
        if node is None:
            node = max(self._paths) + 1
            self._nodes[path], self._paths[node] = node, path
        return _ENTRY.pack(node, 0, 0, 0, 0, 0) + self._attributes(found)

    def _init(self, node: int, body: bytes) -> Reply:
        *_, readahead, _ = struct.unpack_from("<IIII", body)
        big_writes = 1 << 5
        limits = struct.pack("<HHIIHHI", 16, 12, _MAX_WRITE, 1, 0, 0, 0)
        return struct.pack("<IIII", 7, 31, readahead, big_writes) + limits + bytes(28)

    def _lookup(self, node: int, body: bytes) -> Reply:
        return self._entry(self._child(node, _text(body)))

    def _getattr(self, node: int, body: bytes) -> Reply:
        flags, _, handle = struct.unpack_from("<IIQ", body)
        found = os.fstat(handle) if flags & 1 else os.lstat(self._full(node))
        return struct.pack("<QII", 0, 0, 0) + self._attributes(found)

    def _setattr(self, node: int, body: bytes) -> Reply:
        fields = _SETATTR.unpack_from(body)
        valid, size, mtime, mode, uid, gid = (fields[at] for at in (0, 3, 6, 11, 13, 14))
        full = self._full(node)
        if valid & _SET_MODE:
            os.chmod(full, stat.S_IMODE(mode))
        if valid & (_SET_UID | _SET_GID):
            ids = (uid if valid & _SET_UID else -1, gid if valid & _SET_GID else -1)
            os.chown(full, *ids, follow_symlinks=False)
        if valid & _SET_SIZE:
            os.truncate(full, size)
        if valid & _SET_MTIME:
            os.utime(full, (mtime, mtime))
        return self._getattr(node, bytes(16))

    def _symlink(self, node: int, body: bytes) -> Reply:
        name, target, _ = body.split(b"\0")
        os.symlink(os.fsdecode(target), f"{self._full(node)}/{_text(name)}")
        return self._entry(self._child(node, _text(name)))

    def _mknod(self, node: int, body: bytes) -> Reply:
        mode, device = struct.unpack_from("<II", body)
        path = self._child(node, _text(body[16:]))
        os.mknod(f"{self._backing}/{path}", mode, device)
        return self._entry(path)

    def _mkdir(self, node: int, body: bytes) -> Reply:
        path = self._child(node, _text(body[8:]))
        os.mkdir(f"{self._backing}/{path}", struct.unpack_from("<I", body)[0])
        return self._entry(path)

    def _remove(self, remove: Callable[[str], None], node: int, body: bytes) -> Reply:
        path = self._child(node, _text(body))
        remove(f"{self._backing}/{path}")
        self._nodes.pop(path, None)
        return b""

    def _rename(self, node: int, body: bytes, skipped: int) -> Reply:
        target = struct.unpack_from("<Q", body)[0]
        old, new, _ = body[skipped:].split(b"\0")
        before, after = self._child(node, _text(old)), self._child(target, _text(new))
        os.rename(f"{self._backing}/{before}", f"{self._backing}/{after}")
        self._nodes.pop(after, None)
        for path in [path for path in self._nodes if f"{path}/".startswith(f"{before}/")]:
            moved = self._nodes.pop(path)
            self._paths[moved] = after + path[len(before) :]
            self._nodes[self._paths[moved]] = moved
        return b""

    def _open(self, node: int, body: bytes) -> Reply:
        flags = struct.unpack_from("<I", body)[0] & ~(os.O_CREAT | os.O_EXCL | os.O_APPEND)
        return _OPENED.pack(os.open(self._full(node), flags | os.O_CLOEXEC), 0, 0)

    def _create(self, node: int, body: bytes) -> Reply:
        flags, mode = struct.unpack_from("<II", body)
        path = self._child(node, _text(body[16:]))
        handle = os.open(f"{self._backing}/{path}", flags & ~os.O_APPEND | os.O_CLOEXEC, mode)
        return self._entry(path) + _OPENED.pack(handle, 0, 0)

    def _read(self, node: int, body: bytes) -> Reply:
        handle, offset, size, *_ = _IO.unpack_from(body)
        return os.pread(handle, size, offset)

    def _write(self, node: int, body: bytes) -> Reply:
        handle, offset, size, *_ = _IO.unpack_from(body)
        written = os.pwrite(handle, body[_IO.size : _IO.size + size], offset)
        return struct.pack("<II", written, 0)

    def _release(self, node: int, body: bytes) -> Reply:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _fsync(self, node: int, body: bytes) -> Reply:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def _statfs(self, node: int, body: bytes) -> Reply:
        f = os.statvfs(self._backing)
        blocks = (f.f_blocks, f.f_bfree, f.f_bavail, f.f_files, f.f_ffree)
        return struct.pack("<5Q4I24x", *blocks, f.f_bsize, 255, f.f_frsize, 0)

    def _readdir(self, node: int, body: bytes) -> Reply:
        _, offset, size, *_ = _IO.unpack_from(body)
        full = self._full(node)
        entries = b""
        names = [".", "..", *sorted(os.listdir(full))]
        for at, name in list(enumerate(names, 1))[offset:]:
            word = os.fsencode(name)
            kind = stat.S_IFMT(os.lstat(f"{full}/{name}").st_mode) >> 12
            entry = _DIRENT.pack(at, at, len(word), kind) + word
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries


def main() -> None:
    mountpoint, backing, rules = sys.argv[1:]
    Server(backing, rules).serve(mount(mountpoint))


if __name__ == "__main__":
    main()
