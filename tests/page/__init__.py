"""The chat page in a real browser: who drives it, the line that can be cut, a server made up for a test, the picture."""
