"""Attacks on the server, beside honest clients: what is tried, which guard stops it, and that it is the guard that does."""
