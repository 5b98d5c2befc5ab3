"""The actors under schedules that no real machine shows (``python -m tests.tools.simulation``)."""
