"""Resizes, crops, compresses and converts images."""
