"""How long the property-based tests look for a counterexample.

`make test` looks for 100 examples each (hypothesis's own default), `make test-fast` for 25. No deadlines: a busy
machine is no fault.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("full", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "full"))
