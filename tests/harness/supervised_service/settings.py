"""The probe service's settings, where ``jobkit worker`` looks for them."""

import probe_service


class SupervisedSettings(probe_service.ProbeSettings):
    """The same."""
