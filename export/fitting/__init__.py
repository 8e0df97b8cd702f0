"""`potstill fit`: from data, or a fine-tuned classifier, to a proven student within a budget."""
