"""Extracts tables from storage or HTTP, types and checks their rows, and loads them once."""
