"""Chat completions over HTTP: OpenAI's endpoint, or any other that speaks its protocol (`base_url`).

The package tries again by itself after a refused connection, a time-out, 408, 409, 429 and 5xx. A reply is stored
with the model's name as it was served, and a reply from a model of another name ends the job: judges that change
under a name are the reason why published scores cannot be repeated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from tuneproof.errors import InputError
from tuneproof.llm.calls import Reply, Request
from tuneproof.records import Message
from tuneproof.study import ApiLLM

_RETRIES = 5  # with the package's exponential back-off: 0.5 s, 1 s, 2 s, 4 s, 8 s, or what the server asks for
_TIMEOUT_S = 180.0
_TOP = 20  # the most candidates for a token that the protocol gives
# In place of a begun reply, which a chat endpoint does not go on with.
_ONLY = "\n\nReply with exactly one of {choices} and nothing else."


def engine_id(llm: ApiLLM) -> str:
    """Return all that a reply depends on as far as a caller can know it: the endpoint and the model's name."""
    return f"openai.{_host(llm)}.{llm.model}"


class OpenAI:
    """One model behind an endpoint; `max_concurrent` requests at once, which are stored together when all are there."""

    def __init__(self, llm: ApiLLM, environ: Mapping[str, str] = os.environ) -> None:
        import openai

        self.id = engine_id(llm)
        self.group_size, self.batched = llm.max_concurrent, False
        self._llm = llm
        self._key = environ.get(llm.key_env, "") if llm.key_env else "none"
        if not self._key:
            raise InputError(f"the environment has no {llm.key_env}, expected the key of {llm.model} at {_host(llm)}")
        self._client = openai.OpenAI(api_key=self._key, base_url=llm.base_url, max_retries=_RETRIES, timeout=_TIMEOUT_S)

    def answer(self, requests: list[Request], done: Callable[[int], object]) -> list[Reply]:
        """Answer requests, in order, each by itself."""

        def ask(request: Request) -> Reply:
            reply = self._ask(request)
            done(1)
            return reply

        with ThreadPoolExecutor(self._llm.max_concurrent) as pool:
            return list(pool.map(ask, requests))

    def _ask(self, request: Request) -> Reply:
        import openai

        try:
            completion = self._client.chat.completions.create(model=self._llm.model, **_arguments(request))
        except openai.OpenAIError as error:
            # a server may repeat the key in its refusal, and this sentence goes to a log
            said = " ".join(str(error).split()).replace(self._key, "<key>")[:300]
            raise InputError(f"{self._llm.model} at {_host(self._llm)}: {type(error).__name__}: {said}") from None
        if not (completion.model or "").startswith(self._llm.model):
            raise InputError(f"{_host(self._llm)}: {completion.model!r} answered, expected {self._llm.model!r}")
        return _reply(request, completion)


def _arguments(request: Request) -> dict[str, Any]:
    """What a request is in the protocol's words. Greedy; `max_tokens`, because not every server knows its successor."""
    arguments: dict[str, Any] = {"messages": request.messages, "max_tokens": request.max_tokens, "temperature": 0}
    if request.choices:
        last = request.messages[-1]
        only: Message = {**last, "content": last["content"] + _ONLY.format(choices=", ".join(request.choices))}
        return {**arguments, "messages": [*request.messages[:-1], only], "logprobs": True, "top_logprobs": _TOP}
    if request.prefill:
        raise InputError("engine openai does not go on with a begun reply")
    if request.schema:
        shape = {"name": "reply", "schema": request.schema, "strict": True}
        arguments["response_format"] = {"type": "json_schema", "json_schema": shape}
    return arguments


def _reply(request: Request, completion: Any) -> Reply:
    choice, usage = completion.choices[0], completion.usage
    distribution: dict[str, float] = {}
    if request.choices and choice.logprobs and choice.logprobs.content:
        weights = dict.fromkeys(request.choices, 0.0)
        for candidate in choice.logprobs.content[0].top_logprobs:
            if (token := candidate.token.strip()) in weights:  # "4" and " 4" are two tokens and one choice
                weights[token] += math.exp(candidate.logprob)
        if total := sum(weights.values()):
            distribution = {name: weight / total for name, weight in weights.items()}
    return Reply(
        text=choice.message.content or "",
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        finish_reason=choice.finish_reason or "stop",
        distribution=distribution,
        served=completion.model,
    )


def _host(llm: ApiLLM) -> str:
    return urlsplit(llm.base_url).netloc if llm.base_url else "api.openai.com"
