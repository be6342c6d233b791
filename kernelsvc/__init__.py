"""kernelsvc: run code in sessions that keep a live Jupyter kernel."""

__version__ = "0.1.0"
