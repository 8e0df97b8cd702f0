"""The benchmark harness: runs from a checkout, writes result files, is not in the wheel."""
