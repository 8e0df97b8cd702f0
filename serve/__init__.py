"""HTTP serving of bundles: one process, three protocols.

`serve.app.create_app` makes the ASGI application, `serve.server.run` serves it; `potstill serve` does both.
"""
