"""What is said: every frame, its codes, and what a client has sent, judged. No asyncio, no socket, no state."""
