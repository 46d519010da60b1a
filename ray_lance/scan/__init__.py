"""Planning and reading ranges of rows: imports no ray."""
