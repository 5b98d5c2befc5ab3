"""The server under overload, beside a pair that chats in another room. ``python -m tests.tools.overload --help``."""
