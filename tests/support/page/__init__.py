"""The chat page in a real browser: who uses it, a line that can be cut, a server made up for a test, the picture."""
