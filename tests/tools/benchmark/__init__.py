"""The benchmark: this server and its peers under the same load (``python -m tests.tools.benchmark``)."""
