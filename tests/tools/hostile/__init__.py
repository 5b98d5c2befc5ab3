"""Hostile bytes against a real server, by hand-made frames on raw sockets. ``python -m tests.tools.hostile --help``."""
