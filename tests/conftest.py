"""What all tests share: how long Hypothesis may search."""

import os

from hypothesis import HealthCheck, settings

# Machines are shared and slow at times: an example that takes long is no failure.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=60)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
