"""The package that every service stands on.

Import what you need from its modules (``jobkit.service``, ``jobkit.producer``, ``jobkit.contracts`` …). This
file imports none of them, so that a producer which only describes jobs loads Pydantic and nothing else.
"""
