"""Ray Data: the datasource, the datasink and what runs inside their tasks."""
