"""How bytes come and go: one connection, from its handshake to its end."""
