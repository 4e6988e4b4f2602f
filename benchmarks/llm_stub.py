"""A chat-completions endpoint that answers every request after a fixed time: what the clients of llm.py are timed on.

    python benchmarks/llm_stub.py --milliseconds 200

Prints its port; counts the answers per prompt and says at GET /counts how many were sent, and how many twice.
Raw asyncio without a web framework, so that a core that is shared with the client is left to the client.
"""

import argparse
import asyncio
import collections
import json

CONTENT = "The hall in Brückmoor has 4.5 megawatts, and its manager is Ida Thorsen. " * 3


class Stub(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive, one request at a time."""

    def __init__(self, delay: float, counts: collections.Counter[str]) -> None:
        self.delay, self.counts, self.buffer = delay, counts, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            headers = dict(
                (name.strip().lower(), value.strip())
                for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
            )
            length = int(headers.get(b"content-length", b"0"))
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            if head.startswith(b"GET"):
                said = {"answers": sum(self.counts.values()), "prompts": len(self.counts)}
                self.send(json.dumps(said).encode())
            else:
                asyncio.get_running_loop().call_later(self.delay, self.answer, json.loads(body))

    def answer(self, asked: dict) -> None:
        # curator sends a request without messages first, to see the limits
        prompt = asked["messages"][-1]["content"] if asked["messages"] else ""
        self.counts[prompt if isinstance(prompt, str) else json.dumps(prompt)] += 1
        reply = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": CONTENT}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 60, "total_tokens": 160},
        }
        self.send(json.dumps(reply).encode())

    def send(self, content: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.transport.write(head.encode() + content)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=200, help="time to an answer")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    server = await asyncio.get_running_loop().create_server(
        lambda: Stub(args.milliseconds / 1000, counts), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
