"""The HTTP side of the server: connections, routes, protocols."""
