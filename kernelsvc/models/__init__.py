"""The words of the service: plain data, no I/O."""
