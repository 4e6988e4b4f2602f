"""A chat-completions endpoint on real HTTP that can be told to fail in every way that endpoints fail.

`faults(row, attempt)` names what happens to a row's n-th request (0, 1, …): None or "" for an answer. The server keeps
count of what it sent, so a test can say that nothing was lost and nothing was paid for twice.
"""

import asyncio
import collections
import email.utils
import json
import threading
import time

from aiohttp import web

LIMIT = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
TOO_LONG = {
    "error": {
        "message": "This model's maximum context length is 8 tokens.",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
    }
}


def refusal(message, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": None}}


class FaultServer:
    def __init__(self, faults=lambda row, attempt: None, delay=0.0, model="tiny-1-2030-01-31", tls=None):
        self.faults, self.delay, self.model, self.tls = faults, delay, model, tls
        self.attempts = collections.Counter()  # requests per row
        self.answers = collections.Counter()  # whole, right answers per row
        self.sent = collections.defaultdict(list)  # when they were sent
        self.said = collections.Counter()  # by kind of fault
        self.times, self.under_way, self.most_under_way = [], 0, 0
        self.bodies, self.keys = [], set()
        self.headers = {}
        self.content = lambda body: f"answer to {self.row(body)}"
        self.usage = lambda body: {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        self.batches = None
        started = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self.thread.start()
        assert started.wait(10)

    @staticmethod
    def row(body):
        return next(m["content"] for m in body["messages"] if m["role"] == "user")

    def close(self):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(10)

    def _serve(self, started):
        async def main():
            self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
            app = web.Application(client_max_size=1 << 30)
            app.router.add_post("/v1/chat/completions", self.chat)
            self.routes(app)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512, ssl_context=self.tls)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]
            self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"
            started.set()
            await self.stopped.wait()
            await runner.cleanup()

        asyncio.run(main())

    def routes(self, app):
        """More routes, for a server that can do more."""

    def completion(self, body, text=None, finish_reason="stop", model=None):
        message = {"role": "assistant", "content": self.content(body) if text is None else text}
        choice = {"index": 0, "finish_reason": finish_reason, "message": message}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": model or self.model}
        return {**head, "choices": [choice], "usage": self.usage(body)}

    def count(self, row):
        self.answers[row] += 1
        self.sent[row].append(time.monotonic())

    async def chat(self, request):
        body = await request.json()
        self.keys.add(request.headers["Authorization"])
        row = self.row(body)
        attempt = self.attempts[row]
        self.attempts[row] += 1
        self.times.append(time.monotonic())
        self.bodies.append(body)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            fault = self.faults(row, attempt) or "answer"
            self.said[fault] += 1
            delay = self.delay(row) if callable(self.delay) else self.delay
            if delay:
                await asyncio.sleep(delay)
            if request.transport is None or request.transport.is_closing():
                self.said["client gone"] += 1
                return web.Response()
            return await self.respond(request, body, row, fault)
        finally:
            self.under_way -= 1

    async def respond(self, request, body, row, fault):
        good = json.dumps(self.completion(body)).encode()
        name, _, argument = fault.partition(":")
        if name == "answer":
            self.count(row)
            return web.Response(body=good, content_type="application/json", headers=self.headers)
        if name == "429":
            headers = {**self.headers, **({"Retry-After": argument} if argument else {})}
            return web.json_response(LIMIT, status=429, headers=headers)
        if name == "429date":
            return web.json_response(
                LIMIT, status=429, headers={"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)}
            )
        if name == "no money":
            return web.json_response(refusal("You exceeded your quota", "insufficient_quota"), status=429)
        if name in ("500", "503"):
            headers = {"Retry-After": argument} if argument else {}
            return web.json_response(refusal("server error"), status=int(name), headers=headers)
        if name.startswith("json "):  # whatever the test wants said, under this status
            return web.json_response(json.loads(argument), status=int(name[5:]))
        if name == "502":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html", status=502)
        if name in ("400", "401", "403", "404"):
            said = f"no: {request.headers['Authorization']}"
            return web.json_response(refusal(said), status=int(name))
        if name == "too long":
            return web.json_response(TOO_LONG, status=400)
        if name == "filtered request":
            return web.json_response(refusal("filtered", "content_filter"), status=400)
        if name == "content filter":
            self.count(row)
            return web.json_response(self.completion(body, "", "content_filter"))
        if name == "wrong model":
            return web.json_response(self.completion(body, model="tiny-2"))
        if name == "empty choices":
            return web.json_response({**self.completion(body), "choices": []})
        if name == "invalid":
            return web.Response(body=b"{" + good, content_type="application/json")
        if name == "truncated":
            return web.Response(body=good[: len(good) // 2], content_type="application/json")
        if name == "10 MB":
            self.count(row)
            return web.json_response(self.completion(body, "x" * 10_000_000))
        if name == "stall":
            await asyncio.sleep(30)
        if name == "cut off":  # the connection ends in the middle of the answer
            response = web.StreamResponse(headers={"Content-Length": str(len(good))})
            await response.prepare(request)
            await response.write(good[: len(good) // 2])
        request.transport.abort()  # and so for "reset"
        return web.Response()
