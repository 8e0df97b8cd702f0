"""PyTorch to ONNX: the writers of fp32 graphs. Needs torch."""
