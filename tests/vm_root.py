"""What a virtual machine boots from: Debian's kernel and a root file system, as small as the
service allows, made to be started by a slow processor within seconds.

The root is read-only, and changes of it are in memory: what a machine keeps is on a disk of its
own, at /var/lib/edge. Files of one machine are given to it beside its RAM disk. Cached below
`.machines/`, as the roots of `machine_roots`, which it is made of. Needs root, mmdebstrap, mke2fs.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from machine_roots import CACHE, _bootstrap, _once, _run, debian, overlaid, product
from machines import Machine, enable, install

__all__ = ["ram_disk", "root", "system"]

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /lower /changes /root
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do insmod "$module"; done
ip address add "$address" dev "$interface"
ip link set "$interface" up
ip route add default via "$gateway"
mount -t ext4 -o ro "$disk" /lower
mount -t tmpfs changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/lower,upperdir=/changes/upper,workdir=/changes/work root /root
cp -a /files/. /root/
if [ -n "$state" ]; then
    # Without its disk it must not go on: the end of this is the end of the machine.
    [ -z "$nbd" ] || nbd-client "$gateway" "$nbd" || exit 1
    mkdir -p /root/var/lib/edge
    mount -t ext4 -o noatime,errors=panic "$state" /root/var/lib/edge || exit 2
fi
mount --move /dev /root/dev
umount /proc
exec switch_root /root /lib/systemd/systemd
"""

# Commands come by TCP, one connection each, and so does the node's API.
SHELL = """[Socket]
ListenStream=2222
Accept=yes
"""
SHELL_SERVICE = """[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStart=/bin/bash
Environment=HOME=/root LANG=C.UTF-8
StandardInput=socket
StandardOutput=socket
StandardError=socket
"""
API = """[Socket]
ListenStream=7070
"""
API_SERVICE = """[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd /run/edge/edge.sock
"""

# They cost seconds of a slow processor, and nothing of the node needs them.
UNWANTED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dbus.service", "dbus.socket",
    "dev-hugepages.mount", "dev-mqueue.mount",
    "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
    "getty.target", "getty-static.service", "kmod-static-nodes.service", "modprobe@.service",
    "networking.service", "ssh.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "systemd-ask-password-wall.path", "systemd-binfmt.service", "systemd-journal-flush.service",
    "systemd-logind.service", "systemd-modules-load.service", "systemd-network-generator.service",
    "systemd-pstore.service", "systemd-random-seed.service", "systemd-remount-fs.service",
    "systemd-sysusers.service", "systemd-tmpfiles-setup-dev.service",
    "systemd-sysctl.service", "systemd-timesyncd.service", "systemd-tmpfiles-clean.timer",
    "systemd-udev-trigger.service", "systemd-udevd.service", "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket", "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service", "systemd-user-sessions.service",
)  # fmt: skip


def system(suite: str) -> Path:
    """Files of Debian's kernel for virtual machines, and of busybox."""
    packages = ["busybox-static", "linux-image-cloud-amd64"]
    place = CACHE / f"{suite}-vm-kernel"
    return _once(place, lambda tree: _bootstrap(tree, suite, packages, "extract"), *packages)


def nbd_client() -> Path:
    source = Path(__file__).with_name("vm_nbd.c")

    def make(folder: Path) -> None:
        folder.mkdir()
        _run("cc", "-static", "-O2", "-o", str(folder / "nbd-client"), str(source))

    return _once(CACHE / "vm-nbd-client", make, source.read_text()) / "nbd-client"


def root(suite: str) -> Path:
    """A file system of this checkout's service on that Debian, which boots to it."""
    layers = [debian(suite), product(suite)]
    ingredients = [(CACHE / f"{layer.name}.made-of").read_text() for layer in layers]
    ingredients += [SHELL, SHELL_SERVICE, API, API_SERVICE, *UNWANTED]

    def make(place: Path) -> None:
        place.mkdir()
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="vm-root-") as name:
            folder = Path(name)
            for part in ("root", "upper", "work"):
                (folder / part).mkdir()
            with overlaid(folder / "root", layers, folder / "upper", folder / "work"):
                _prepare(Machine("vm", suite, "10.0.2.15", folder / "root"))
                image = place / "root.img"
                options = ["-O", "^has_journal", "-m", "0", "-d", str(folder / "root")]
                _run("mke2fs", "-q", "-t", "ext4", *options, str(image), "900M")

    return _once(CACHE / f"{suite}-vm-root", make, *ingredients) / "root.img"


def _prepare(machine: Machine) -> None:
    install(machine)
    units = "etc/systemd/system"
    machine.write("etc/hostname", "vm\n")
    machine.write("etc/machine-id", "00000000000000000000000000000001\n")
    machine.write("etc/fstab", "")
    for name, text in (("shell", SHELL), ("api", API)):
        machine.write(f"{units}/{name}.socket", text)
        (machine.root / f"{units}/sockets.target.wants").mkdir(exist_ok=True)
        (machine.root / f"{units}/sockets.target.wants/{name}.socket").symlink_to(
            f"/{units}/{name}.socket"
        )
    machine.write(f"{units}/shell@.service", SHELL_SERVICE)
    machine.write(f"{units}/api.service", API_SERVICE)
    for unit in UNWANTED:
        mask = machine.root / units / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    enable(machine, "multi-user.target", "edge.service")
    enable(machine, "sockets.target", "edge.socket")


def ram_disk(
    target: Path, busybox: Path, modules: Iterable[Path], files: Mapping[str, str | bytes]
) -> Path:
    """What the kernel starts first: it brings `files` into the root."""
    tree: dict[str, tuple[int, bytes]] = {
        "init": (0o755, INIT.encode()),
        "bin/busybox": (0o755, busybox.read_bytes()),
        "bin/nbd-client": (0o755, nbd_client().read_bytes()),
    }
    for number, module in enumerate(modules):
        tree[f"modules/{number:02}-{module.name}"] = (0o644, module.read_bytes())
    for path, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        mode = 0o755 if data.startswith(b"#!") else 0o644
        tree[f"files/{path.lstrip('/')}"] = (mode, data)
    with target.open("wb") as archive:
        folders = {parent.as_posix() for path in tree for parent in Path(path).parents}
        for folder in sorted(folders - {"."}):
            archive.write(_member(folder, stat.S_IFDIR | 0o755))
        archive.write(_member("dev", stat.S_IFDIR | 0o755))
        archive.write(_member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
        for path, (mode, data) in tree.items():
            archive.write(_member(path, stat.S_IFREG | mode, data))
        archive.write(_member("TRAILER!!!", 0))
    return target


def _member(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """Of a cpio archive in its "new ASCII" form (Documentation/driver-api/early-userspace)."""
    label = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(label), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + label
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
