"""What an operator sees: routes, metrics, logs."""
