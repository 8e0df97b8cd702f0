"""What `potstill fit` found out, as values, JSON, page, picture and text."""
