"""Which rootfs a container runs on."""

import fcntl
import os
import struct

_FS_IOC_GETVERSION = 0x80087601  # linux/fs.h: the inode's generation, new when its number is reused


def identity(path: str) -> str:
    """Identifies a rootfs directory across reboots: its inode and that inode's generation.

    Device numbers change from boot to boot, and a directory made anew in the same place often
    gets the old inode number; the generation tells them apart where the file system has it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inode = os.fstat(fd).st_ino
        try:
            answer = fcntl.ioctl(fd, _FS_IOC_GETVERSION, bytes(8))
        except OSError:
            return f"{inode}"
        return f"{inode}:{struct.unpack('I', answer[:4])[0]}"
    finally:
        os.close(fd)
