"""The Autobahn testsuite against an echo by our ways in and out. ``python -m tests.tools.autobahn --help``."""
