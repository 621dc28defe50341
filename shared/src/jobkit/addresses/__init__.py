"""Addresses from the environment: what is refused because it leads nowhere, or elsewhere than it seems to."""
