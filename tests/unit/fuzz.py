"""How many cases a fuzz test runs: some in CI, many times as many in `make fuzz`."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

SCALE = int(os.environ.get("TORPOR_FUZZ_SCALE", "1"))


def cases(count: int) -> Callable[[Any], Any]:
    """Run a hypothesis test with count cases, times TORPOR_FUZZ_SCALE, and mark it as fuzz."""
    bounded = settings(
        max_examples=count * SCALE,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    return lambda test: pytest.mark.fuzz(bounded(test))
