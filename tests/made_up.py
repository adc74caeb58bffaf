"""How hypothesis makes up what laws are tried on: the same on every run, and little of it.

``FIRETV_EXAMPLES=2000`` in the environment tries more.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_FACTOR = {"derandomize": True, "deadline": None, "database": None}
_CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
EXAMPLES = int(os.environ.get("FIRETV_EXAMPLES", "15"))
made_up = settings(max_examples=EXAMPLES, suppress_health_check=_CALM, **_FACTOR)
# What reads and writes files, or tries every strategy, is slow.
on_files = settings(made_up, max_examples=max(1, EXAMPLES // 3))
