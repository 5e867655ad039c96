"""A pytest plugin: what an emulated processor changes for tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Seconds here are twenty times too many, or a hundred while the machine is busy.
TIMED = {
    "test_many_instances_of_a_module_with_many_imports_are_refused_soon",
}

settings.register_profile("emulated", deadline=None, max_examples=25)


def pytest_configure() -> None:
    # After conftest.py has chosen its own.
    settings.load_profile("emulated")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(item, "originalname", item.name) in TIMED:
            item.add_marker(pytest.mark.skip(reason="asserts a duration"))
