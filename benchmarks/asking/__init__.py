"""Parts of the `ask` scenario."""
