"""Random byte streams, to both lanes and to a model of RFC 6455. ``python -m tests.tools.streams --help``."""
