"""How properties are tried below this folder."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no time limit on one of them: a busy machine must not fail a test.
settings.register_profile("potstill", derandomize=True, deadline=None)
settings.load_profile("potstill")
