"""Several processes that serve one set of topics, over a mesh without a broker. Only ``mesh`` knows the engine."""
