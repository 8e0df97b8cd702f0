"""Arms and summary of the `quality` scenario."""
