"""What language models can do with the service, in the shapes that their APIs take."""
