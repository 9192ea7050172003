"""What holds for all tests."""

import os
import secrets

from hypothesis import settings

# Ray reads its token once a process: all clusters that the tests start must have the same one.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# Nor is the key that checkpoints are signed with the user's own.
os.environ.setdefault("WUTONG_CHECKPOINT_KEY", secrets.token_hex(32))

# No deadline for a single example: on a busy machine it measures the machine.
settings.register_profile("wutong", deadline=None)
settings.load_profile("wutong")
