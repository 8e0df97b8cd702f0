"""What every scenario shares: rows, the candidates for them, turns, result files."""
