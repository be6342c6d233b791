"""What ERA Agent's guides show, as its clients would send it; each file is named after a guide.

Its guide to timeouts is in `tests/examples/test_timeout_guide.py`. Its storage proxy, for what
Cloudflare stores, has no counterpart here.
"""
