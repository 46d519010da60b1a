"""Ray Train: data configuration and shards with state."""
