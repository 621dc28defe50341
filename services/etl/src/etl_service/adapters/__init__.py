"""The outside world: object storage, web servers and databases, each behind a Protocol."""
