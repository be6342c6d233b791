"""Live kernels: the only room that speaks the Jupyter messaging protocol."""
