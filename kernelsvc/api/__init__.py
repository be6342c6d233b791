"""HTTP: requests to models, models and errors to answers. The only room with Tornado."""
