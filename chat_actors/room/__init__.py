"""State of a topic: its members and the messages of its window. No asyncio, no socket, no clock of its own."""
