"""The wire contract: frames, codes, names and decoding. No asyncio, no socket, no state."""
