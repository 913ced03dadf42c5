"""Tests of the line tracer."""
