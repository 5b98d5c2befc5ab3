"""The Autobahn testsuite against an echo by our ways in and out. ``python -m tests.autobahn --help``."""
