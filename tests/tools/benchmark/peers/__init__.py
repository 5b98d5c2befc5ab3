"""Other chat servers that do the same work: join a topic, send, fan out to everyone else, ack the sender."""
