"""Orders over rows as pure arithmetic: imports neither lance, ray nor torch."""
