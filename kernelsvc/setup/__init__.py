"""What a session installs before its first run."""
