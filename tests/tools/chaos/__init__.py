"""Chaos: a proxy that breaks connections at random, and clients that lose, double and mix up nothing all the same."""
