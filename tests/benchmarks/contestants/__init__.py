"""The ways to run code that are compared, each behind the same interface."""
