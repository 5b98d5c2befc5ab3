"""Simulated workers: crews that run against each other, with a kernel, a clock and peers that are made up."""
