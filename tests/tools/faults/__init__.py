"""What must not break the server, done to a real one and counted: ``python -m tests.tools.faults``."""
