"""The clients that llm.py compares, each run by itself in an environment of its own:

    python benchmarks/llm_clients.py CONTENDER --url http://127.0.0.1:…/v1 --rows 2048 --concurrency 64 --folder F

Prints JSON: seconds from the first call to the last answer (imports done), processor seconds of this process and its
children in that time, peak memory. Every contender is set up to keep 64 requests under way and to retry nothing.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

MODEL, MAX_TOKENS = "stub", 100
TEXT = "The site manager of the hall wrote down what was measured in the night. " * 8


def prompts(rows: int) -> list[str]:
    return [f"{TEXT}Row {n}: what is the capacity of the hall?" for n in range(rows)]


def messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def ours(url: str, rows: int, concurrency: int, folder: Path) -> Callable[[], list[str]]:
    """This repository's client as the scripts use it, with its store on."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
    import aiohttp  # noqa: F401
    import openai  # noqa: F401

    from tuneproof.llm.calls import Request
    from tuneproof.llm.engines import complete_with
    from tuneproof.study import ApiLLM

    llm = ApiLLM(engine="openai", model=MODEL, base_url=url, key_env=None, max_concurrent=concurrency)

    def run() -> list[str]:
        requests = [Request(messages(p), MAX_TOKENS) for p in prompts(rows)]
        return [a.reply.text for a in complete_with(llm, None, requests, folder, "bench")]

    return run


def aiohttp(url: str, rows: int, concurrency: int, folder: Path) -> Callable[[], list[str]]:
    """The yardstick: nothing but HTTP."""
    import aiohttp as package

    async def main() -> list[str]:
        async with package.ClientSession(connector=package.TCPConnector(limit=concurrency)) as session:

            async def ask(prompt: str) -> str:
                body = {"model": MODEL, "messages": messages(prompt), "max_tokens": MAX_TOKENS}
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    return (await response.json())["choices"][0]["message"]["content"]

            return await asyncio.gather(*map(ask, prompts(rows)))

    return lambda: asyncio.run(main())


def gather(url: str, rows: int, concurrency: int, folder: Path) -> Callable[[], list[str]]:
    """asyncio.gather over the openai package as it comes."""
    import openai

    async def main() -> list[str]:
        client, places = openai.AsyncOpenAI(api_key="none", base_url=url), asyncio.Semaphore(concurrency)

        async def ask(prompt: str) -> str:
            async with places:
                done = await client.chat.completions.create(
                    model=MODEL, messages=messages(prompt), max_tokens=MAX_TOKENS
                )
                return done.choices[0].message.content

        return await asyncio.gather(*map(ask, prompts(rows)))

    return lambda: asyncio.run(main())


def litellm(url: str, rows: int, concurrency: int, folder: Path) -> Callable[[], list[str]]:
    """asyncio.gather over litellm."""
    import litellm as package

    package.telemetry = False

    async def main() -> list[str]:
        places = asyncio.Semaphore(concurrency)

        async def ask(prompt: str) -> str:
            async with places:
                done = await package.acompletion(
                    model=f"openai/{MODEL}",
                    api_base=url,
                    api_key="none",
                    messages=messages(prompt),
                    max_tokens=MAX_TOKENS,
                )
                return done.choices[0].message.content

        return await asyncio.gather(*map(ask, prompts(rows)))

    return lambda: asyncio.run(main())


def curator(url: str, rows: int, concurrency: int, folder: Path) -> Callable[[], list[str]]:
    """bespokelabs-curator with its cache on, as it comes."""
    # it counts tokens with a vocabulary that tiktoken would download; litellm, which it needs, brings the file
    litellm = Path(importlib.util.find_spec("litellm").submodule_search_locations[0])
    os.environ |= {
        "TIKTOKEN_CACHE_DIR": str(litellm / "litellm_core_utils" / "tokenizers"),
        "CURATOR_CACHE_DIR": str(folder),
        "TELEMETRY_ENABLED": "false",
        "CURATOR_VIEWER": "0",
        "OPENAI_API_KEY": "none",
        "HF_HUB_OFFLINE": "1",
    }
    from bespokelabs import curator as package

    llm = package.LLM(
        model_name=MODEL,
        backend="openai",
        generation_params={"max_tokens": MAX_TOKENS},
        backend_params={
            "base_url": url,
            "max_concurrent_requests": concurrency,
            "max_requests_per_minute": 1_000_000,
            "max_tokens_per_minute": 1_000_000_000,
        },
    )

    def run() -> list[str]:
        answered = llm(prompts(rows))
        return [row["response"] for row in getattr(answered, "dataset", answered)]

    return run


def distilabel(url: str, rows: int, concurrency: int, folder: Path) -> Callable[[], list[str]]:
    """A distilabel pipeline of one step."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    def run() -> list[str]:
        with Pipeline(name="bench", cache_dir=folder) as pipeline:
            load = LoadDataFromDicts(data=[{"instruction": p} for p in prompts(rows)], batch_size=concurrency)
            llm = OpenAILLM(model=MODEL, base_url=url, api_key="none", generation_kwargs={"max_new_tokens": MAX_TOKENS})
            load >> TextGeneration(llm=llm, input_batch_size=concurrency)
        return [row["generation"] for row in pipeline.run(use_cache=False)["default"]["train"]]

    return run


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    contenders = {f.__name__: f for f in (ours, aiohttp, gather, curator, litellm, distilabel)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=contenders)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder for what the client stores")
    args = parser.parse_args()
    run = contenders[args.contender](args.url, args.rows, args.concurrency, args.folder)
    began, used = time.perf_counter(), processor_seconds()
    answers = run()
    seconds, used = time.perf_counter() - began, processor_seconds() - used
    assert len(answers) == args.rows, f"{len(answers)} answers"
    assert all(isinstance(a, str) and a.startswith("The hall") for a in answers), "an answer is missing"
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "processor_seconds": used, "peak_mb": peak / 1024}))


if __name__ == "__main__":
    main()
