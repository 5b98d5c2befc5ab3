"""Faults that must not break the server, on a real one, with counts: ``python -m tests.tools.faults``."""
