"""Helpers for the chat page in a real browser: its users, a line that can be cut, and a server made up for a test."""
