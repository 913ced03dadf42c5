"""Comparisons of times: run by hand on a quiet machine, never part of the tests."""
