"""PyTorch classifiers: loading, running and saving them. A torch room."""
