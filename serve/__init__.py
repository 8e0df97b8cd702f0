"""HTTP serving of bundles; not built yet."""
