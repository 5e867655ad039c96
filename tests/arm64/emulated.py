"""A pytest plugin: what an emulated processor changes for tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

# What cannot be told here, by test. QEMU's user mode reserves all of a process's addresses at its
# start and does not know RLIMIT_AS: their number is given with --address-bits.
TOLD_ELSEWHERE = {
    "test_many_instances_of_a_module_with_many_imports_are_refused_soon": "asserts a duration",
    "test_what_fits_is_used": "limits its addresses",
    "test_without_room_for_a_pool_memories_are_mapped_one_by_one": "limits its addresses",
    "test_an_engine_ends_with_its_thread_and_its_addresses": "counts its addresses",
}

settings.register_profile("emulated", deadline=None, max_examples=25)


def pytest_configure() -> None:
    # After conftest.py has chosen its own.
    settings.load_profile("emulated")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = TOLD_ELSEWHERE.get(getattr(item, "originalname", item.name))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
