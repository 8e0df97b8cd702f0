"""Parts of the `scale` scenario."""
