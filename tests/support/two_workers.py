"""A program of one's own that starts a server with two workers: ``python -m tests.support.two_workers``."""

import uvicorn

if __name__ == "__main__":
    uvicorn.run("chat_actors.app:app", port=0, workers=2)
