"""What keeps a session's code apart from the host, and the one way out that it may be given."""
