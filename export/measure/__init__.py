"""Measuring quality, latency, throughput, size and memory, and showing them."""
