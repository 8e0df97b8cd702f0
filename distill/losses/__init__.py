"""The training loss: terms and their weighted sum. Imports torch.

Knows nothing of files, epochs or optimisers: an objective maps a batch to a scalar with a gradient.
"""
