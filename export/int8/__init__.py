"""int8 graphs: calibration, quantization, and the gates they must pass."""
