"""HTTP serving of bundles: one process, three protocols.

`serve.http.app.create_app` makes the ASGI application, `serve.http.server.run` serves it; `potstill serve` does both.
"""
