"""The doctor's checks of a machine: each fault is planted, found, and mended as it was advised."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge import config
from edge.errors import EdgeError
from edge.fleet.keeping import DIRECTORY, Kept, Membership
from edge.node.doctor import CHECKS, examine
from edge.node.doctor.findings import Finding, ok
from edge.node.doctor.site import Answer, Site

YEAR = 365 * 86400
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and gives files away")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files of a machine that is well."""
    root = tmp_path / "root"
    write(root / "run/systemd/timesync/synchronized", "")
    write(root / "proc/meminfo", "MemTotal: 900000 kB\nMemAvailable: 500000 kB\nHugePages: 0\n")
    write(root / "sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n")
    stack = "7ffc00000000-7ffd00000000 rw-p 00000000 00:00 0 [stack]\n"
    vsyscall = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n"
    write(root / "proc/self/maps", stack + vsyscall)
    return root


@pytest.fixture
def site(root: Path, tmp_path: Path) -> Site:
    """Of a node that does not run, and of which nothing is wrong."""
    state = tmp_path / "state"
    state.mkdir(mode=0o750)
    node = config.Node(name="lab", state_dir=state, socket=tmp_path / "edge.sock")
    settings = config.Daemon(
        node=node,
        http=config.Http(listen=(config.Address("127.0.0.1", 0),)),
        mirror=config.Mirror(listen=None),
        limits=config.Limits(memory=64 << 20),
    )
    problem = EdgeError("no node answers at edge.sock", hint="`edge run`")
    return Site(settings=settings, root=root, answer=Answer(problem=problem, uid=os.geteuid()))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def today() -> float:
    return datetime.now(UTC).timestamp()


def found(site: Site, name: str) -> list[Finding]:
    findings = examine(site, {name: CHECKS[name]})
    for one in findings:
        assert one.check == name
        # Who is told of a fault is told what to do.
        assert (one.advice is None) == (one.status == "ok"), one
    return findings


def one(site: Site, name: str) -> Finding:
    (finding,) = found(site, name)
    return finding


def status(site: Site, name: str) -> str:
    return one(site, name).status


def test_a_machine_that_is_well_has_no_error(site: Site) -> None:
    wrong = [finding for finding in examine(site) if finding.status == "error"]
    assert wrong == []


# --- how checks are run ---------------------------------------------------------------------------


def test_what_hangs_keeps_nobody_from_an_answer(site: Site) -> None:
    over = threading.Event()

    def hangs(_: Site) -> Iterator[Finding]:
        over.wait(60)
        yield ok("hangs", "at last")

    def breaks(_: Site) -> Iterator[Finding]:
        raise OSError(errno.EIO, "Input/output error", "/dev/x")

    def bug(_: Site) -> Iterator[Finding]:
        raise KeyError("x")

    def well(_: Site) -> Iterator[Finding]:
        yield ok("well", "yes")

    started = time.monotonic()
    checks = {"hangs": hangs, "breaks": breaks, "bug": bug, "well": well}
    try:
        late, broken, wrong, fine = examine(site, checks, 0.5)
    finally:
        over.set()
    assert time.monotonic() - started < 20
    assert (late.status, late.found) == ("error", "no answer within 0.5 s")
    assert late.advice
    assert (broken.status, broken.found) == (
        "warning", "cannot be checked: /dev/x: input/output error",
    )  # fmt: skip
    assert wrong.found == "cannot be checked: KeyError: 'x'"
    assert fine == ok("well", "yes")


# --- the clock ------------------------------------------------------------------------------------


def test_a_clock_that_is_behind_ahead_or_not_kept(site: Site) -> None:
    assert status(site, "clock") == "ok"
    behind = one(replace(site, wall=lambda: 86400.0), "clock")
    assert behind.status == "error"
    assert "the clock says 1970-01-02 00:00:00 UTC, but it has been 20" in behind.found
    assert "timedatectl set-ntp true" in str(behind.advice)
    ahead = one(replace(site, wall=lambda: today() + 40 * YEAR), "clock")
    assert ahead.status == "error"
    assert "not believable" in ahead.found


def test_a_clock_may_not_go_behind_what_the_node_has_seen(site: Site) -> None:
    seen = today() + 3 * 86400
    write(site.state_dir / "clock", f"{seen:.0f}\n")
    assert status(site, "clock") == "error"
    # Once it is set it is well.
    assert status(replace(site, wall=lambda: seen + 10), "clock") == "ok"


# --- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def mounted(site: Site) -> Iterator[Callable[[str], None]]:
    """Puts a file system of its own at the state directory."""
    place = str(site.state_dir)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)

    yield mount
    subprocess.run(["umount", place], check=False, capture_output=True)


@as_root
def test_a_full_disk(site: Site, mounted: Callable[[str], None]) -> None:
    mounted("size=300m")
    assert status(site, "space") == "ok"
    with (site.state_dir / "big").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 290 << 20)
    full = one(site, "space")
    assert full.status == "error"
    assert "10MiB of 300MiB are free" in full.found
    assert "edge undeploy" in str(full.advice)
    os.truncate(site.state_dir / "big", 200 << 20)
    assert status(site, "space") == "warning"
    (site.state_dir / "big").unlink()
    assert status(site, "space") == "ok"


@as_root
def test_a_disk_without_inodes_and_one_that_is_read_only(
    site: Site, mounted: Callable[[str], None]
) -> None:
    mounted("size=300m,nr_inodes=100")
    for number in range(99):
        (site.state_dir / str(number)).touch()
    lacks = one(site, "space")
    assert (lacks.status, "inodes" in lacks.found) == ("error", True)
    for number in range(99):
        (site.state_dir / str(number)).unlink()
    assert status(site, "space") == "ok"
    subprocess.run(["mount", "-o", "remount,ro", site.state_dir], check=True)
    fixed = one(site, "space")
    assert (fixed.status, "read-only" in fixed.found) == ("error", True)
    subprocess.run(["mount", "-o", "remount,rw", site.state_dir], check=True)
    assert status(site, "space") == "ok"


def test_a_disk_that_is_worn_out(site: Site, root: Path) -> None:
    assert "no disk of its own" in one(site, "disk").found
    device = root / "sys/devices/platform/mmc/block/mmcblk0"
    number = site.state_dir.stat().st_dev
    link = root / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}"
    write(device / "mmcblk0p2/partition", "2\n")
    link.parent.mkdir(parents=True)
    link.symlink_to(device / "mmcblk0p2")
    assert one(site, "disk") == ok(
        "disk", "mmcblk0: does not tell how worn it is (SD cards do not)"
    )
    for life, spare, expected in (
        ("0x01 0x02", "0x01", "ok"),
        ("0x01 0x09", "0x01", "warning"),
        ("0x03 0x01", "0x02", "warning"),
        ("0x0b 0x01", "0x01", "error"),
        ("0x03 0x01", "0x03", "error"),
    ):
        write(device / "device/life_time", f"{life}\n")
        write(device / "device/pre_eol_info", f"{spare}\n")
        assert status(site, "disk") == expected, (life, spare)
    write(device / "device/pre_eol_info", "0x01\n")
    write(device / "device/life_time", "0x01 0x02\n")
    assert one(site, "disk").found == "mmcblk0: at most 20 % of its life are used"
    write(root / "sys/fs/ext4/mmcblk0p2/errors_count", "3\n")
    errors, _ = found(site, "disk")
    assert errors.status == "error"
    assert errors.found == "mmcblk0p2: its file system had 3 errors"


# --- power and memory -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected", "said"),
    [
        ("0", "ok", "its voltage is right, 55 °C"),
        ("50000", "warning", "since it was started its voltage was too low, it was throttled"),
        ("50005", "error", "its voltage is too low, it is throttled, 55 °C"),
        ("80008", "error", "it is too hot, 55 °C"),
    ],
)
def test_power_as_the_firmware_of_a_board_tells_it(
    flags: str, expected: str, said: str, site: Site, root: Path
) -> None:
    write(root / "sys/class/thermal/thermal_zone0/temp", "55000\n")
    write(root / "sys/devices/platform/soc/soc:firmware/get_throttled", f"{flags}\n")
    finding = one(site, "power")
    assert (finding.status, finding.found) == (expected, said)


def test_power_as_a_mainline_kernel_tells_it(site: Site, root: Path) -> None:
    assert status(site, "power") == "ok"
    write(root / "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    write(root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    low = one(site, "power")
    assert (low.status, low.found) == ("error", "its voltage is too low")
    assert "power supply" in str(low.advice)
    write(root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    assert one(site, "power") == ok("power", "its voltage is right")
    write(root / "sys/class/thermal/thermal_zone0/temp", "84000\n")
    assert status(site, "power") == "warning"


def test_memory_that_is_used_up_promised_or_not_counted(site: Site, root: Path) -> None:
    assert status(site, "memory") == "ok"
    write(root / "proc/meminfo", "MemTotal: 900000 kB\nMemAvailable: 9000 kB\n")
    assert status(site, "memory") == "warning"
    write(root / "proc/meminfo", "MemTotal: 60000 kB\nMemAvailable: 50000 kB\n")
    assert "[limits] memory is 64MiB" in one(site, "memory").found
    write(root / "proc/meminfo", "MemTotal: 900000 kB\nMemAvailable: 500000 kB\n")
    write(root / "sys/fs/cgroup/cgroup.controllers", "cpu io pids\n")
    _, groups = found(site, "memory")
    assert "cgroup_enable=memory" in str(groups.advice)


# --- addresses, kernel ----------------------------------------------------------------------------


def test_a_narrow_address_space_as_the_kernel_tells_it(site: Site, root: Path) -> None:
    assert one(site, "addresses").found.startswith("47 bits of addresses")
    write(root / "proc/self/maps", "7fe8a00000-7fe8a21000 rw-p 00000000 00:00 0 [stack]\n")
    narrow = one(site, "addresses")
    assert narrow.status == "warning"
    assert narrow.found.startswith("39 bits of addresses, room for ")
    assert "a kernel with more" in str(narrow.advice)


def test_settings_of_the_kernel(site: Site, root: Path) -> None:
    assert status(site, "kernel") == "ok"
    assert status(site, "pages") == "ok"
    write(root / "proc/sys/vm/overcommit_memory", "2\n")
    assert "sysctl vm.overcommit_memory=0" in str(one(site, "kernel").advice)
    write(root / "proc/sys/vm/overcommit_memory", "0\n")
    write(root / "proc/sys/vm/max_map_count", "1000\n")
    assert status(site, "kernel") == "error"
    write(root / "proc/sys/vm/max_map_count", "65530\n")
    assert status(site, "kernel") == "ok"


# --- the unit, permissions ------------------------------------------------------------------------


def test_drop_ins_of_an_earlier_version(site: Site, root: Path) -> None:
    assert one(site, "unit").found == "edge is not installed as a service"
    write(root / "usr/lib/systemd/system/edge.service", "[Service]\n")
    shipped = root / "usr/share/edge/drop-ins/pulley.conf"
    copy = root / "etc/systemd/system/edge.service.d/pulley.conf"
    write(shipped, "[Service]\nMemoryDenyWriteExecute=yes\n")
    write(root / "etc/systemd/system/edge.service.d/mine.conf", "[Service]\nNice=5\n")
    write(copy, "[Service]\n# as it was\nMemoryDenyWriteExecute=yes\n")
    old = one(site, "unit")
    assert (old.status, old.found) == ("warning", f"{copy} is not the one of this version")
    shutil.copy(shipped, copy)
    assert status(site, "unit") == "ok"
    write(root / "usr/share/edge/drop-ins/lan-only.socket.conf", "[Socket]\n")
    write(root / "etc/systemd/system/edge.socket.d/lan-only.conf", "[Socket]\n")
    assert status(site, "unit") == "ok"


def test_a_unit_that_is_replaced_or_masked(site: Site, root: Path) -> None:
    write(root / "usr/lib/systemd/system/edge.service", "[Service]\n")
    own = root / "etc/systemd/system/edge.service"
    write(own, "[Service]\n")
    assert "replaces the unit of the package" in one(site, "unit").found
    own.unlink()
    own.symlink_to("/dev/null")
    assert "`systemctl unmask edge`" in str(one(site, "unit").advice)
    own.unlink()
    assert status(site, "unit") == "ok"


def test_a_state_that_others_may_write(site: Site) -> None:
    site.state_dir.chmod(0o777)
    assert "others may write there" in one(site, "permissions").found
    site.state_dir.chmod(0o750)
    assert status(site, "permissions") == "ok"


@as_root
def test_a_state_that_is_somebody_elses(site: Site) -> None:
    site = replace(site, answer=replace(site.answer, uid=65534))
    (site.state_dir / "kv").mkdir()
    os.chown(site.state_dir, 65534, 65534)
    wrong = one(site, "permissions")
    assert wrong.found == f"{site.state_dir}/kv: belongs to root, the node is nobody"
    assert wrong.advice == f"`chown -R nobody: {site.state_dir}`"
    os.chown(site.state_dir / "kv", 65534, 65534)
    assert status(site, "permissions") == "ok"


def test_credentials_that_are_not_there_or_open(site: Site, root: Path) -> None:
    write(root / "usr/lib/systemd/system/edge.service", "[Service]\n")
    place = root / "etc/edge/credentials"
    missing = one(site, "permissions")
    assert (missing.status, missing.advice) == ("error", f"`install -d -m 0700 {place}`")
    place.mkdir(parents=True, mode=0o755)
    assert status(site, "permissions") == "warning"
    place.chmod(0o700)
    assert status(site, "permissions") == "ok"


def test_a_socket_that_everybody_may_use(site: Site) -> None:
    path = site.settings.node.socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        assert "everybody on this machine may command the node" in one(site, "permissions").found
        path.chmod(0o660)
        assert status(site, "permissions") == "ok"


# --- ports ----------------------------------------------------------------------------------------


def listening(site: Site, port: int, host: str = "127.0.0.1") -> Site:
    http = config.Http(listen=(config.Address(host, port),))
    return replace(site, root=Path("/"), settings=replace(site.settings, http=http))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_another_program_has(host: str, site: Site) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        wrong = one(listening(site, port, host), "ports")
        assert wrong.status == "error"
        assert f"(process {os.getpid()}) listens there" in wrong.found
    assert status(listening(site, port, host), "ports") == "ok"


def test_an_address_that_is_none_of_this_machine(site: Site) -> None:
    wrong = one(listening(site, 8080, "192.0.2.1"), "ports")
    assert "cannot assign requested address" in wrong.found
    assert status(listening(site, 8080, "no-such-host.invalid"), "ports") == "error"


def test_a_port_that_only_root_may_open(site: Site) -> None:
    site = replace(site, answer=replace(site.answer, uid=65534))
    (finding,) = examine(listening(site, 1), {"ports": CHECKS["ports"]})
    assert (finding.status, "edge.socket" in str(finding.advice)) == ("warning", True)


# --- certificates ---------------------------------------------------------------------------------


def certificate(path: Path, begin: int, end: int) -> None:
    """From so many days from now until so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(days=begin))
        .not_valid_after(now + timedelta(days=end, hours=1))
        .sign(key, hashes.SHA256())
    )
    with path.open("ab") as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))


def test_a_certificate_that_has_expired(site: Site, tmp_path: Path) -> None:
    assert one(site, "certificates") == ok("certificates", "none are used")
    pem = tmp_path / "tls.pem"
    http = replace(site.settings.http, tls_certificate=str(pem), tls_key=str(pem))
    site = replace(site, settings=replace(site.settings, http=http))
    for begin, end, expected, said in (
        (-90, -3, "error", "expired 2 days ago"),
        (-90, 5, "warning", "expires in 5 days"),
        (2, 90, "error", "begins to be valid in 1 day"),
        (-1, 90, "ok", "good for 90 days"),
    ):
        pem.unlink(missing_ok=True)
        certificate(pem, begin, end)
        finding = one(site, "certificates")
        assert (finding.status, said in finding.found) == (expected, True), finding
    certificate(pem, -90, -3)  # one above it in the chain
    assert status(site, "certificates") == "error"
    pem.write_text("nonsense")
    assert "is not a certificate in PEM" in one(site, "certificates").found
    pem.unlink()
    assert "no such file" in one(site, "certificates").found


def test_an_authority_of_which_one_certificate_is_good(site: Site, tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    mqtt = config.Mqtt(url="mqtts://broker", ca_file=str(pem))
    registry = config.Registry("registry.example", ca_file=pem)
    site = replace(site, settings=replace(site.settings, mqtt=mqtt, registries=(registry,)))
    certificate(pem, -90, -3)
    assert {finding.status for finding in found(site, "certificates")} == {"error"}
    certificate(pem, -90, 90)
    assert {finding.status for finding in found(site, "certificates")} == {"ok"}


def test_the_certificate_of_a_fleet(site: Site) -> None:
    def member(days: int) -> None:
        until = int(today()) + days * 86400 + 3600
        Kept(site.state_dir / DIRECTORY).write_membership(
            Membership("a" * 52, "b" * 52, "home", "a" * 52, (), until)
        )

    for days, expected in ((-2, "error"), (10, "warning"), (300, "ok")):
        member(days)
        finding = one(site, "certificates")
        assert (finding.status, "in the fleet home" in finding.found) == (expected, True)
