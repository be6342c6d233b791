"""A session's way to the internet: a filtering proxy, one process a session, outside its sandbox.

It parses what hostile code sends, so it stands alone: it imports the standard library and h11, and
nothing of the service. `python -P -m kernelsvc.sandbox.egress CONTROL_FD OFFER_FD` runs it.
"""
