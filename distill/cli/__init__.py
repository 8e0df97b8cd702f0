"""The `potstill` command: flags, terminal output, progress bars."""
