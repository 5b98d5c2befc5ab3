"""What a browser gets: the chat page, and the protocol as a page."""
