"""A job's way through a worker: ``path`` tells it, ``carrier`` takes deliveries along it in Dramatiq's worker."""
