"""The `fit` scenario: `potstill fit` on the built-in task, against training everything, and on texts from elsewhere."""
