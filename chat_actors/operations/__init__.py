"""Operations: the routes, metrics and logs for the operator of a server."""
