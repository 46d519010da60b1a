"""Ray Data connector for the Lance columnar format."""
