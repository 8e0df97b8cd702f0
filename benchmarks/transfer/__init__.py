"""Parts of the `transfer` scenario."""
