"""The page at `/`: one self-contained file, `index.html`, that uses the public routes of the server."""
