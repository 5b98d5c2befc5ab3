"""Connections: the path of bytes between a peer and the actors, from the handshake to the close."""
