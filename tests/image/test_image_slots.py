"""Which slot starts: what the device writes, read by a model of each bootloader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import bootloader
import pytest
from ab import boards, disk


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    for name in ("bootcode.bin", "start_cd.elf", "fixup_cd.dat", "start4cd.elf", "fixup4cd.dat"):
        (tmp_path / name).touch()
    for slot in "ab":
        folder = tmp_path / f"slot-{slot}"
        folder.mkdir()
        for name in ("vmlinuz", "initrd.img", *trees()):
            (folder / name).touch()
    (tmp_path / "usercfg.txt").touch()
    board = boards.TryBoot(tmp_path)
    for slot in "ab":
        board.write_command_lines(slot)
    board.make("a")
    return tmp_path


def trees() -> Iterator[str]:
    for _, _, names in bootloader.MODELS.values():
        yield from names


def files(boot: Path) -> dict[str, bytes]:
    found = (path for path in boot.rglob("*") if path.is_file())
    return {str(path.relative_to(boot)): path.read_bytes() for path in found}


def slot_of(boot: Path, model: str = "pi4", *, tryboot: bool = False) -> tuple[str, bool]:
    start = bootloader.choose(files(boot), model, tryboot=tryboot)
    slot, trial = boards.running(start.command_line)
    assert start.kernel == f"slot-{slot}/vmlinuz"
    assert f"root={disk.partition(disk.SLOTS[slot])}" in start.command_line
    return slot, trial


@pytest.mark.parametrize("model", bootloader.MODELS)
def test_each_model_starts_the_only_slot(boot: Path, model: str) -> None:
    assert slot_of(boot, model) == ("a", False)


@pytest.mark.parametrize("model", bootloader.MODELS)
def test_a_trial_is_one_start_and_then_the_old_slot_returns(
    boot: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(boards, "run", lambda *command: loaded.append(command))
    boards.TryBoot(boot).arm("b")
    assert loaded[-1] == ("modprobe", "edge_tryboot")
    assert slot_of(boot, model, tryboot=True) == ("b", True)
    assert slot_of(boot, model) == ("a", False)


def test_what_was_committed_starts_from_then_on(boot: Path) -> None:
    board = boards.TryBoot(boot)
    board.commit("b")
    assert slot_of(boot) == ("b", False)
    assert board.default() == "b"
    board.commit("a")
    assert slot_of(boot) == ("a", False)


def test_the_flag_without_a_file_to_try_starts_the_usual_slot(boot: Path) -> None:
    assert slot_of(boot, tryboot=True) == ("a", False)


def test_the_choice_is_one_sector_written_in_place(
    boot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = boot / "config.txt"
    before = config.stat()
    writes = []
    original = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda *words: writes.append(len(words[1])) or original(*words)
    )
    boards.TryBoot(boot).commit("b")
    after = config.stat()
    assert (after.st_size, after.st_ino) == (disk.SECTOR, before.st_ino)
    assert writes == [disk.SECTOR]


def test_a_user_s_settings_reach_the_firmware_and_stay(boot: Path) -> None:
    (boot / "usercfg.txt").write_text("gpu_mem=32\n")
    with pytest.raises(bootloader.NoStart, match=r"start4\.elf"):
        slot_of(boot)


# systemd-boot -------------------------------------------------------------------------------------


def entries(boot: Path) -> list[tuple[str, str]]:
    """Name and text, as systemd-boot sorts them: entries without tries left come last, then by
    sort-key."""

    def rank(path: Path) -> tuple[bool, str]:
        tries = path.stem.partition("+")[2].partition("-")[0]
        key = next(
            line.split()[1] for line in path.read_text().splitlines() if line.startswith("sort-key")
        )
        return tries == "0", key

    found = sorted((boot / "loader/entries").glob("*.conf"), key=rank)
    return [(path.name, path.read_text()) for path in found]


def started(boot: Path) -> tuple[str, bool]:
    """Starts the first entry, counting as systemd-boot does."""
    name, text = entries(boot)[0]
    stem, plus, tries = name.removesuffix(".conf").partition("+")
    if plus:
        left = int(tries.partition("-")[0]) - 1
        folder = boot / "loader/entries"
        (folder / name).rename(folder / f"{stem}+{left}-1.conf")
    return boards.running(text)


@pytest.fixture
def efi(tmp_path: Path) -> boards.Efi:
    board = boards.Efi(tmp_path, "vm-amd64")
    board.make("a")
    return board


def test_efi_starts_the_only_slot(efi: boards.Efi) -> None:
    assert [started(efi.boot), started(efi.boot)] == [("a", False)] * 2


def test_efi_tries_once(efi: boards.Efi) -> None:
    efi.arm("b")
    assert [started(efi.boot) for _ in range(3)] == [("b", True), ("a", False), ("a", False)]


def test_efi_keeps_what_was_committed(efi: boards.Efi) -> None:
    efi.arm("b")
    assert started(efi.boot) == ("b", True)
    efi.commit("b")
    assert [started(efi.boot), efi.default()] == [("b", False), "b"]
    efi.arm("a")
    assert [started(efi.boot), started(efi.boot)] == [("a", True), ("b", False)]


def test_a_system_that_was_not_started_from_a_slot_is_no_image() -> None:
    with pytest.raises(disk.Problem, match="not an edge image"):
        boards.running("root=/dev/sda1 ro quiet")


def test_a_text_larger_than_a_sector_is_refused() -> None:
    with pytest.raises(disk.Problem, match="do not fit"):
        disk.sector("x" * disk.SECTOR)
