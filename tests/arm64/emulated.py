"""A pytest plugin: what an emulated processor changes for tests."""

from __future__ import annotations

from hypothesis import settings

# An example takes twenty times as long here; how long says nothing.
settings.register_profile("emulated", deadline=None, max_examples=25)
settings.load_profile("emulated")
