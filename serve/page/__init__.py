"""The page at `/`: one file, `index.html`, that asks the server as any other client does; it needs no other resource."""
