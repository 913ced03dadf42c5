"""Longhaul: receives large files over slow and broken lines, and processes them on other hosts."""

__version__ = "0.1.0"
