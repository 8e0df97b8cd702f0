"""The answering side of the server: queue, engine, models. Knows no HTTP."""
