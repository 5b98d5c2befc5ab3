"""What a topic is: its members and the messages of its window. No asyncio, no socket, no clock of its own."""
