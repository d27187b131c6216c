"""What a virtual machine boots from: Debian's own kernel, an initramfs, a disk. Built once, cached.

The disk is never written to: each machine writes to an overlay of its own.
"""

import hashlib
import platform
import shutil
import struct
import subprocess
from pathlib import Path

import guest
import image

KERNEL, NEWER = "debian", "newer"  # directories with a kernel and its initramfs
AGENT = Path(__file__).resolve().parent / "vm_agent.py"
DISK_BYTES = 4 << 30

# No compilers, no other runtimes, and nothing that boots machines in machines.
_NOT_NEEDED = {
    *("gcc", "libc6-dev", "python3-pytest", "crun", "podman", "systemd-container"),
    *("checkpointctl", "openssh-server"),
}
PACKAGES = (
    *(package for package in image.PACKAGES if package not in _NOT_NEEDED),
    *("linux-image-cloud-amd64", "kmod", "udev"),
    # a library that makes syncs do nothing
    "libeatmydata1",
)

# What a machine is upgraded to.
NEWER_KERNEL_SUITE = f"{image.SUITE}-backports"
NEWER_KERNEL = (f"linux-image-cloud-amd64/{NEWER_KERNEL_SUITE}",)

EXCLUDED = (
    *image.DOCUMENTATION,
    "/usr/lib/udev/hwdb.d/*",
    # Would build an initramfs with all that a Debian could meet; ours takes a second.
    "/etc/kernel/postinst.d/initramfs-tools",
)

# What takes seconds under emulation and is of no use here, as to ask udev about each of the
# hundred devices that the kernel names by itself.
MASKED_UNITS = (
    *image.MASKED_UNITS,
    "getty@tty1.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "systemd-binfmt.service",
    "systemd-hibernate-clear.service",
    "systemd-pstore.service",
    "systemd-udev-load-credentials.service",
    "systemd-udev-trigger.service",
)

AGENT_UNIT = """[Unit]
Description=Commands from the host
# There before anything that a test could want to look at, and until the very end of a shutdown.
DefaultDependencies=no
After=systemd-journald.socket

[Service]
Slice=system.slice
Environment=HOME=/root LANG=C.UTF-8
ExecStart=/usr/bin/python3 -IS /usr/local/sbin/vm-agent
IgnoreSIGPIPE=no

[Install]
WantedBy=sysinit.target
"""

# No check: the kernel replays the journal, and with it the damage of a power cut shows.
FSTAB = "/dev/vda / ext4 rw,relatime 0 0\n"

# $1: the initramfs to make, $2: for which kernel. The tree's own busybox and modules make it.
_MAKE_INITRAMFS = r"""
export PATH=/usr/sbin:/usr/bin
work=$(mktemp -d)
cd "$work"
mkdir bin dev root modules
cp /usr/bin/busybox bin/
for path in $(modprobe -S "$2" --show-depends virtio_blk | sed -n 's/^insmod //p'); do
    name=$(basename "${path%.xz}")
    busybox xz -dc "$path" >"modules/$name"
    echo "insmod /modules/$name" >>load
done
cat >init <<END
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
$(cat load)
until [ -b /dev/vda ]; do usleep 10000; done
mount -t ext4 -o rw,relatime /dev/vda /root
mount -o move /dev /root/dev
exec switch_root /root /usr/lib/systemd/systemd
END
chmod 755 init
find bin dev root modules init | busybox cpio -o -H newc >"$1"
rm -r "$work"
"""


def recipe() -> dict[str, object]:
    """Everything the disk depends on."""
    return {
        "format": 1,
        "suite": image.SUITE,
        "packages": PACKAGES,
        "newer_kernel": NEWER_KERNEL,
        "excluded": EXCLUDED,
        "masked": MASKED_UNITS,
        "disabled": image.DISABLED_UNITS,
        "agent": hashlib.sha256(AGENT.read_bytes()).hexdigest(),
        "files": [AGENT_UNIT, FSTAB, _MAKE_INITRAMFS],
        "size": DISK_BYTES,
        "guest": guest.recipe(),
        "architecture": platform.machine(),
    }


def configure(tree: Path, log: Path) -> None:
    """Turn the bare installation into the one that the machine boots."""
    (tree / "etc/fstab").write_text(FSTAB)
    (tree / "etc/systemd/system/vm-agent.service").write_text(AGENT_UNIT)
    shutil.copyfile(AGENT, tree / "usr/local/sbin/vm-agent")
    # An empty one would make this a first boot, which enables every installed unit.
    (tree / "etc/machine-id").write_text(hashlib.md5(b"torpor").hexdigest() + "\n")
    image.logged(log, "chroot", tree, "systemctl", "-q", "enable", "vm-agent.service")
    image.logged(log, "chroot", tree, "systemctl", "-q", "disable", *image.DISABLED_UNITS)
    image.logged(log, "chroot", tree, "systemctl", "-q", "mask", *MASKED_UNITS)
    # Newer than /usr (systemd-update-done.service(8)): nothing is left to be done at a first boot.
    (tree / "etc/.updated").touch()
    (tree / "var/.updated").touch()


def unpack_kernel(packed: Path, kernel: Path) -> None:
    """Write the kernel that a bzImage would unpack itself to: qemu starts it at once, as ELF.

    Where it is in the file: setup_sects, payload_offset and payload_length of the kernel's
    Documentation/arch/x86/boot.rst.
    """
    file = packed.read_bytes()
    offset, length = struct.unpack_from("<II", file, 0x248)
    begin = (file[0x1F1] + 1) * 512 + offset
    with kernel.open("wb") as output:
        # The last four bytes are its size unpacked.
        data = file[begin : begin + length - 4]
        subprocess.run(["zstd", "-d"], input=data, stdout=output, check=True)


def _take_kernel(tree: Path, log: Path, place: Path) -> None:
    """Have the kernel in the tree's /boot, and its initramfs, in a new directory."""
    place.mkdir()
    (packed,) = (tree / "boot").glob("vmlinuz-*")
    version = packed.name.removeprefix("vmlinuz-")
    make = ("sh", "-ec", _MAKE_INITRAMFS, "sh", "/initramfs", version)
    image.logged(log, "chroot", tree, *make)
    (tree / "initramfs").rename(place / "initramfs")
    unpack_kernel(packed, place / "kernel")
    packed.unlink()


def make_disk(directory: Path, log: Path) -> None:
    """Build kernel, initramfs and disk in a new directory."""
    tree = directory / "tree"
    directory.mkdir()
    image.bootstrap(tree, log, PACKAGES, EXCLUDED)
    _take_kernel(tree, log, directory / KERNEL)
    image.install_from(tree, log, NEWER_KERNEL_SUITE, NEWER_KERNEL)
    _take_kernel(tree, log, directory / NEWER)
    configure(tree, log)
    image.logged(log, "cp", "-a", guest.build_guest(), f"{tree}{guest.PLACE}")
    disk = directory / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    # Nothing is left for the kernel to initialize in the background.
    complete = "lazy_itable_init=0,lazy_journal_init=0"
    image.logged(log, "mkfs.ext4", "-q", "-F", "-E", complete, "-d", tree, disk)
    image.logged(log, "rm", "-rf", "--one-file-system", tree)


def build_disk() -> Path:
    """The directory with kernel, initramfs and disk, built first when there is none.

    Raises image.ImageError.
    """
    image.require_packages("e2fsprogs", "zstd")
    guest.build_guest()  # not below: two builds would wait for one another's lock
    return image.build_cached(image.cached_path("vm", recipe()), "the VM's disk", make_disk)
