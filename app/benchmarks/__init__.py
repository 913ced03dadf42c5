"""Measurements that the documentation quotes, each by a command of its own."""
