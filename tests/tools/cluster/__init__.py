"""Clusters for the tests: nodes in one process on a mesh of the test's, and servers in processes of their own."""
