"""PyTorch classifiers: loading, running and saving them, and the names of their parts. Imports torch."""
