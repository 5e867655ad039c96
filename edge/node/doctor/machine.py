"""The machine that a node runs on: its date, its disk, its power, its memory."""

from __future__ import annotations

import ctypes
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from edge.application.units import show_about as amount
from edge.node.doctor.findings import Finding, error, ok, warning
from edge.node.doctor.site import Site

__all__ = ["clock", "disk", "memory", "power", "space"]

MIB = 1 << 20

# Seconds that a clock may be off before anybody should care.
_OFF = 60.0
# adjtimex(2): nothing keeps the clock right.
_TIME_ERROR = 5

# Bytes of free space without which a node cannot write its state, and below which it is tight.
_NO_SPACE, _LITTLE_SPACE = 32 * MIB, 256 * MIB
# Share of the inodes.
_FEW = 0.02

# JESD84 (eMMC), EXT_CSD 267 to 269: tenths of the estimated life; spare blocks left.
_WORN, _WORN_OUT = 0x09, 0x0B
_SPARE = {2: "most of its spare blocks are used", 3: "its spare blocks are used up"}

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
_NOW = {0: "its voltage is too low", 1: "its frequency is capped", 2: "it is throttled",
        3: "it is too hot"}  # fmt: skip
_EARLIER = {16: "its voltage was too low", 17: "its frequency was capped", 18: "it was throttled",
            19: "it was too hot"}  # fmt: skip
_SUPPLY = "use a power supply and a cable that are made for this board, and fewer USB devices"
_COOLING = "give it air or a heat sink"

# Degrees Celsius, at which boards slow down soon.
_HOT = 80.0
# Bytes of memory that should be left for a new guest.
_LITTLE_MEMORY = 48 * MIB


def clock(site: Site) -> Iterator[Finding]:
    now, trusted = site.wall(), site.clock()()
    if now < trusted - _OFF:
        yield error(
            "clock",
            f"the clock says {_date(now)}, but it has been {_date(trusted)} already",
            "`timedatectl set-ntp true`, and a network with a time server; by hand: "
            "`timedatectl set-time 'YYYY-MM-DD hh:mm'`. Until then the node goes by the later date",
        )
    elif now > trusted + _OFF:
        yield error(
            "clock",
            f"the clock says {_date(now)}, which is not believable",
            "`timedatectl set-ntp true`; by hand: `timedatectl set-time 'YYYY-MM-DD hh:mm'`",
        )
    elif _synchronised(site) is False:
        yield warning(
            "clock",
            f"{_date(now)}; nothing keeps it right",
            "`timedatectl set-ntp true` (Debian packages systemd-timesyncd or chrony)",
        )
    else:
        yield ok("clock", _date(now))


def _date(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _synchronised(site: Site) -> bool | None:
    """None: the kernel does not tell."""
    if (site.root / "run/systemd/timesync/synchronized").exists():
        return True
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def space(site: Site) -> Iterator[Finding]:
    place = _existing(site.state_dir)
    stat = os.statvfs(place)
    free, total = stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize
    text = f"{place}: {amount(free)} of {amount(total)} are free"
    advice = (
        "`edge undeploy` what is not needed, lower [limits] quota, "
        "`journalctl --vacuum-size=32M`, `apt-get clean`"
    )
    if stat.f_flag & os.ST_RDONLY:
        yield error(
            "space",
            f"{place}: is mounted read-only",
            "after an error the kernel does so: `dmesg`; then `fsck`, and"
            " `mount -o remount,rw` when the disk is well",
        )
    elif free < _NO_SPACE:
        yield error("space", text, advice)
    elif stat.f_files and stat.f_favail < stat.f_files * _FEW:
        yield error(
            "space",
            f"{place}: {stat.f_favail} of {stat.f_files} files (inodes) are free",
            f"remove directories of many small files: `du --inodes -d 2 {place}`",
        )
    elif free < _LITTLE_SPACE:
        yield warning("space", text, advice)
    else:
        yield ok("space", text)


def _existing(path: Path) -> Path:
    """It, or what it would be made in."""
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))


def disk(site: Site) -> Iterator[Finding]:
    number = _existing(site.state_dir).stat().st_dev
    known = site.root / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}"
    if not known.exists():
        yield ok("disk", "the state is on no disk of its own that could be asked")
        return
    part = known.resolve()
    whole = part.parent if (part / "partition").exists() else part
    name, advice = whole.name, "`edge backup` now, and replace the disk"
    errors = _number(site.root / "sys/fs/ext4" / part.name / "errors_count", 10)
    if errors:
        yield error(
            "disk",
            f"{part.name}: its file system had {errors} errors",
            f"`dmesg`; {advice}; `fsck`",
        )
    used, spare = _life(whole), _number(whole / "device/pre_eol_info", 16) or 0
    if used is None:
        yield ok("disk", f"{name}: does not tell how worn it is (SD cards do not)")
    elif used >= _WORN_OUT or spare >= 3:
        yield error("disk", f"{name}: is worn out", advice)
    elif used >= _WORN or spare in _SPARE:
        why = _SPARE.get(spare, f"{(used - 1) * 10} to {used * 10} % of its life are used")
        yield warning("disk", f"{name}: {why}", "`edge backup`, and plan to replace the disk")
    else:
        yield ok("disk", f"{name}: at most {used * 10} % of its life are used")


def _life(disk: Path) -> int | None:
    """Tenths, of the kind of its memory that is worn most."""
    try:
        return max(int(text, 16) for text in (disk / "device/life_time").read_text().split())
    except (OSError, ValueError):
        return None


def _number(path: Path, base: int) -> int | None:
    try:
        return int(path.read_text(), base)
    except (OSError, ValueError):
        return None


def power(site: Site) -> Iterator[Finding]:
    flags = _throttled(site.root)
    low = [path for path in _voltage_alarms(site.root) if _number(path, 10)]
    hottest = max(_temperatures(site.root), default=None)
    heat = "" if hottest is None else f"{hottest:.0f} °C"
    now = [text for bit, text in _NOW.items() if (flags or 0) >> bit & 1]
    earlier = [text for bit, text in _EARLIER.items() if (flags or 0) >> bit & 1]
    if low and _NOW[0] not in now:
        now.insert(0, _NOW[0])
    if now:
        cold = not any("hot" in text for text in now)
        yield error("power", ", ".join((*now, heat)).rstrip(", "), _SUPPLY if cold else _COOLING)
    elif earlier:
        cold = not any("hot" in text for text in earlier)
        found = f"since it was started {', '.join(earlier)}"
        yield warning("power", found, _SUPPLY if cold else _COOLING)
    elif hottest is not None and hottest >= _HOT:
        yield warning("power", heat, _COOLING)
    else:
        told = flags is not None or list(_voltage_alarms(site.root))
        voltage = "its voltage is right" if told else "this machine has no sensor of its voltage"
        yield ok("power", f"{voltage}, {heat}".rstrip(", "))


def _throttled(root: Path) -> int | None:
    """What the firmware of a Raspberry Pi says; Raspberry Pi's own kernels only."""
    for path in (root / "sys/devices/platform").glob("soc*/*firmware/get_throttled"):
        return _number(path, 16)
    return None


def _voltage_alarms(root: Path) -> Iterator[Path]:
    for name in (root / "sys/class/hwmon").glob("*/name"):
        if name.read_text().strip() == "rpi_volt":
            yield name.with_name("in0_lcrit_alarm")


def _temperatures(root: Path) -> Iterator[float]:
    for path in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        if (thousandths := _number(path, 10)) is not None:
            yield thousandths / 1000


def memory(site: Site) -> Iterator[Finding]:
    known = dict(_meminfo(site.root))
    total, left = known.get("MemTotal", 0), known.get("MemAvailable", 0)
    text = f"{amount(left)} of {amount(total)} are available"
    guests = site.settings.limits.memory
    if guests > total > 0:
        yield error(
            "memory",
            f"[limits] memory is {amount(guests)}, the machine has {amount(total)}",
            "leave it out: half of the machine's is the default",
        )
    elif left < _LITTLE_MEMORY:
        yield warning(
            "memory", text, "`ps aux --sort=-rss | head` shows who has it; lower [limits] memory"
        )
    else:
        yield ok("memory", text)
    if not _has_memory_groups(site.root):
        yield warning(
            "memory",
            "the kernel has no control groups for memory: MemoryMax= of the service does nothing",
            "on a Raspberry Pi: `cgroup_enable=memory` in /boot/firmware/cmdline.txt, then restart",
        )


def _meminfo(root: Path) -> Iterator[tuple[str, int]]:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.strip().endswith(" kB"):
            yield name, int(value.split()[0]) * 1024


def _has_memory_groups(root: Path) -> bool:
    try:
        second = (root / "sys/fs/cgroup/cgroup.controllers").read_text().split()
    except OSError:
        return (root / "sys/fs/cgroup/memory").is_dir()
    return "memory" in second
