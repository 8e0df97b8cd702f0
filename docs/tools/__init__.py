"""The documentation site: gathers its pages in build/docs and lets zensical build them. Runs from a checkout."""
