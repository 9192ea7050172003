"""What holds for all tests."""

from hypothesis import settings

# No deadline for a single example: on a busy machine it measures the machine.
settings.register_profile("wutong", deadline=None)
settings.load_profile("wutong")
