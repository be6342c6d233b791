"""API keys: their secrets, and who a request comes from."""
