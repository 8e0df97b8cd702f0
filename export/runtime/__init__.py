"""Answering from ONNX graphs: onnxruntime, tokenizers and numpy; never torch."""
