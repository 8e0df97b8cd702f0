"""A server that answers at once, to weigh the load generator with: what is left is the generator's own cost."""

from __future__ import annotations

import asyncio
import sys

ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n[{"label":"positive","score":0.987654}]'
)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything that is read at once for one request."""
    while await reader.read(1 << 16):
        writer.write(ANSWER)
    writer.close()


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
