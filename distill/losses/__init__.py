"""What a student is trained to minimise: terms and their weighted sum. A torch room.

Knows nothing of files, epochs or optimisers: a batch goes in, a number with a gradient comes out.
"""
