"""The protocols, one file each: they read requests and write answers, and do not compute."""
