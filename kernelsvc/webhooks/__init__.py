"""Finished runs go to whom they were asked for: signed, retried, to public addresses only."""
