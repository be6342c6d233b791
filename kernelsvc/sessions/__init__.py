"""Sessions: what the product does, without HTTP."""
