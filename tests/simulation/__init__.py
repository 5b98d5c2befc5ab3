"""The actors under schedules that no real machine shows (``python -m tests.simulation``)."""
