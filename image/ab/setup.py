"""Settings from the boot partition, once: put in their places, then removed from the card.

Any computer can write the FAT partition; nobody should be able to read secrets off it later.
First everything is in its place and on the card, then the source goes: a power cut in between
does the same again.
"""

from __future__ import annotations

import grp
import hashlib
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from ab.disk import BOOT, Problem, run, scrub, sync_directory, writable

SOURCE = BOOT / "setup"
EDGE = Path("/etc/edge")
WIRELESS = Path("/etc/wpa_supplicant/wpa_supplicant-wlan0.conf")
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)

Say = Callable[[str], None]


def run_all(source: Path, say: Say) -> list[Path]:
    """Takes what is in `source`; the files that are done with. What is wrong is said and stays."""
    done = []
    for name, take in TAKERS.items():
        for path in sorted(source.glob(name)):
            try:
                take(path, say)
            except (Problem, OSError, ValueError, KeyError) as exc:
                say(f"{path.name}: {exc}")
            else:
                done.append(path)
    return done


def run_setup(say: Say) -> None:
    wanted = [path for name in TAKERS for path in SOURCE.glob(name)]
    if not wanted:
        return
    done = run_all(SOURCE, say)
    os.sync()
    with writable():
        for path in done:
            scrub(path)
            say(f"{path.name}: taken, and removed from the boot partition")


def _edge_toml(path: Path, say: Say) -> None:
    text = path.read_text(encoding="utf-8-sig")
    tomllib.loads(text)
    place(EDGE / "edge.toml", text, 0o640, group="edge")


def _token(path: Path, say: Say) -> None:
    place(EDGE / "token", f"{one_line(path)}\n", 0o640, group="edge")


def _keys(path: Path, say: Say) -> None:
    place(Path("/etc/ssh/authorized_keys/root"), path.read_text(encoding="utf-8-sig"), 0o600)


def _host_name(path: Path, say: Say) -> None:
    name = one_line(path)
    if not HOST_NAME.fullmatch(name):
        raise Problem(f"{name!r} is not a host name: letters, digits, hyphens")
    place(Path("/etc/hostname"), f"{name}\n", 0o644)
    Path("/proc/sys/kernel/hostname").write_text(name)


def _wireless(path: Path, say: Say) -> None:
    place(WIRELESS, wireless(tomllib.loads(path.read_text(encoding="utf-8-sig"))), 0o600)
    run("systemctl", "--quiet", "enable", "wpa_supplicant@wlan0.service")
    run("systemctl", "--no-block", "start", "wpa_supplicant@wlan0.service")


def wireless(settings: dict[str, str]) -> str:
    """wpa_supplicant's configuration; of a password only the key that it makes for this network."""
    country, ssid = settings["country"], settings["ssid"]
    if not re.fullmatch("[A-Z]{2}", country):
        raise Problem(f"{country!r} is not a country: two capital letters")
    if (password := settings.get("password")) is None:
        security = "key_mgmt=NONE"
    else:
        key = hashlib.pbkdf2_hmac("sha1", password.encode(), ssid.encode(), 4096, 32)
        security = f"psk={key.hex()}"
    # In hexadecimal nothing needs quoting.
    network = f"network={{\n\tssid={ssid.encode().hex()}\n\tscan_ssid=1\n\t{security}\n}}\n"
    return f"country={country}\n{network}"


def _bundle(path: Path, say: Say) -> None:
    say(f"{path.name}: importing")
    with path.open("rb") as file:
        # As the node's user, who may not read the boot partition.
        target = Path("/var/lib/edge/.setup.tar")
        target.write_bytes(file.read())
    try:
        run("chown", "edge:edge", "/var/lib/edge", str(target))
        run("runuser", "-u", "edge", "--", "edge", "import",
            "--state-dir", "/var/lib/edge", str(target))  # fmt: skip
    finally:
        target.unlink()


TAKERS: dict[str, Callable[[Path, Say], None]] = {
    "hostname": _host_name,
    "authorized_keys": _keys,
    "token": _token,
    "edge.toml": _edge_toml,
    "wifi.toml": _wireless,
    "bundles/*.tar": _bundle,
}


def one_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8-sig").split()
    if len(lines) != 1:
        raise Problem("one line, one word")
    return lines[0]


def place(path: Path, text: str, mode: int, group: str = "root") -> None:
    """Puts a file in its place: the old one or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "w") as opened:
        os.fchown(file, 0, grp.getgrnam(group).gr_gid)
        os.fchmod(file, mode)
        opened.write(text)
        opened.flush()
        os.fsync(file)
    temporary.rename(path)
    sync_directory(path.parent)
