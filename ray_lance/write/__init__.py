"""Fragment files and commits: imports no ray."""
