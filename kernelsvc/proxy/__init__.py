"""Relaying requests to servers that run inside of sessions: HTTP/1.1 by h11, nothing of ours."""
