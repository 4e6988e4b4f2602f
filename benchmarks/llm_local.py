"""Time this repository's CPU engine beside transformers' generate and llama.cpp's server: `make bench-llm-local`.

    python benchmarks/llm_local.py [--rounds 1] [--prompts 64] [--judged 48]

The default study's generator writes 48 tokens to each of 64 prompts, greedily; nobody's loading is counted, and ours
has the store on. The others are tried with 16 and with all 64 prompts at once. Then a judge's prompt of which four
fifths are the same for all rows is read, with reuse of the common part and without.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm import HERE, environment, machine

ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "scripts"))
MODEL = ROOT / "resources/models/qwen2.5-coder-1.5b-instruct/lock.json"
LLAMACPP = ["xllamacpp==2026.10.11549"]
MAX_TOKENS = 48
CONTENDERS = ("ours", "transformers, 16", "transformers, 64", "llama.cpp, 16", "llama.cpp, 64")

THINGS = (
    "diesel generator, chilled-water loop, mantrap, patch panel, battery string, raised floor, fire damper, meet-me"
)
ASPECTS = (
    "what it does, why it fails, who looks after it, how it is tested, what it costs, how loud it is, how old it gets, "
)


def prompts(n: int) -> list[str]:
    aspects = (ASPECTS + "when it is replaced").split(", ")
    every = [f"{thing}: {aspect}" for thing in THINGS.split(", ") for aspect in aspects]
    return [f"Explain in three sentences to a visitor of a data centre: {every[i]}." for i in range(n)]


def judged(n: int) -> list[str]:
    rubric = (ROOT / "prompts/judge.paper.txt").read_text()[:900]
    shared = rubric + "\nBe strict, and give a reason for each point. " * 12
    own = "Answer number {i}: the hall has {i}.5 megawatts and {i} cabinets." + " It is new." * 20
    return [f"{shared}\n{own.format(i=i)}" for i in range(n)]


def requests(texts: list[str], max_tokens: int) -> list[Any]:
    from tuneproof.llm.calls import Request

    return [Request([{"role": "user", "content": text}], max_tokens) for text in texts]


def openvino(wanted: list[Any], reuse: bool = True, concurrent: int = 64) -> tuple[list[Any], float]:
    """Answer with our engine; return replies and seconds without those of loading."""
    from tuneproof.llm import openvino
    from tuneproof.llm.client import complete
    from tuneproof.llm.store import Store
    from tuneproof.study import OpenVINOLLM

    loading = 0.0

    class Timed(openvino.OpenVINO):
        shares_prefixes = reuse

        def _load(self) -> Any:
            nonlocal loading
            began = time.perf_counter()
            pipeline = super()._load()
            loading += time.perf_counter() - began
            return pipeline

    llm = OpenVINOLLM(engine="openvino", model="qwen2.5-coder-1.5b-instruct", max_concurrent=concurrent)
    identity = openvino.engine_id(llm, MODEL)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answered = complete(wanted, identity, lambda: Timed(llm, MODEL), Store(Path(folder), identity), "bench")
    return [a.reply for a in answered], time.perf_counter() - began - loading


def weights_differ() -> dict[str, float]:
    """How far the weights that OpenVINO makes of the GGUF are from the file's, by the file's types: |a - b| / |b|."""
    import gguf
    import numpy as np
    import openvino as ov
    import openvino_genai

    file = MODEL.parent / json.loads(MODEL.read_text())["files"][0]["name"]
    core, differs = ov.Core(), {}
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / file.name
        link.symlink_to(file)
        openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
        model = core.read_model(Path(folder) / "openvino_model.xml")
        wanted = {f"blk.0.{name}.weight" for name in ("attn_q", "attn_v", "ffn_up", "ffn_down")}
        tensors = [tensor for tensor in gguf.GGUFReader(str(file)).tensors if tensor.name in wanted]
        theirs = [(t.tensor_type.name, gguf.dequantize(t.data, t.tensor_type)) for t in tensors]
        matmuls = [op for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"][:10]  # of the first layer
        for op in matmuls:
            try:
                weight = ov.Model([op.input_value(1).get_node()], [], "weight")
            except RuntimeError:  # not of weights alone: rotary angles, attention
                continue
            ours = next(iter(core.compile_model(weight, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({}).values()))
            for kind, values in theirs:
                if ours.shape == values.shape:
                    error = float(np.linalg.norm(ours - values) / np.linalg.norm(values))
                    differs[kind] = min(error, differs.get(kind, 1.0))
    return differs


def load_transformers() -> Any:
    """transformers' generate in bfloat16, on the same weights read from the same file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tuneproof.llm.calls import Reply

    file = json.loads(MODEL.read_text())["files"][0]["name"]
    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=file, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL.parent, gguf_file=file, dtype=torch.bfloat16).eval()

    def generate(part: list[Any]) -> list[Reply]:
        texts = [tokenizer.apply_chat_template(r.messages, add_generation_prompt=True, tokenize=False) for r in part]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            rows = model.generate(
                **batch, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        replies = []
        for row in rows[:, batch["input_ids"].shape[1] :].tolist():
            written = row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row
            replies.append(Reply(tokenizer.decode(written, skip_special_tokens=True), 0, len(written), "stop"))
        return replies

    return generate


def measure(contender: str, n: int, url: str) -> dict[str, Any]:
    """Answer the prompts with one contender, in this process."""
    together = together_of(contender)
    if contender.startswith("prefix"):
        replies, seconds = openvino(requests(judged(n), 1), reuse=contender == "prefix, reused")
        return {"prompt_tokens_per_s": sum(r.prompt_tokens for r in replies) / seconds, "seconds": seconds}
    wanted = requests(prompts(n), MAX_TOKENS)
    if contender == "ours":
        replies, seconds = openvino(wanted)
    elif contender.startswith("transformers"):
        generate = load_transformers()
        began = time.perf_counter()
        replies = [reply for i in range(0, n, together) for reply in generate(wanted[i : i + together])]
        seconds = time.perf_counter() - began
    else:
        from tuneproof.llm.engines import complete_with
        from tuneproof.study import ApiLLM

        llm = ApiLLM(engine="openai", model="qwen", base_url=url, key_env=None, max_concurrent=together, timeout_s=600)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            replies = [a.reply for a in complete_with(llm, None, wanted, Path(folder), "bench")]
            seconds = time.perf_counter() - began
    tokens = sum(r.completion_tokens for r in replies)
    return {"tokens_per_s": tokens / seconds, "seconds": seconds, "texts": [r.text.strip() for r in replies]}


def together_of(contender: str) -> int:
    """How many prompts a contender is given at once."""
    number = contender.rpartition(", ")[2]
    return int(number) if number.isdigit() else 0


def serve(together: int) -> None:
    """llama.cpp's server, in its own environment; prints its address."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(MODEL.parent / json.loads(MODEL.read_text())["files"][0]["name"])
    parameters.model_alias = {"qwen"} if isinstance(parameters.model_alias, set) else "qwen"
    parameters.n_parallel, parameters.n_ctx, parameters.port = together, together * 512, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = os.cpu_count()
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


def run(contender: str, n: int) -> dict[str, Any]:
    server = None
    url = ""
    try:
        if contender.startswith("llama.cpp"):
            python = environment("llamacpp", LLAMACPP)
            server = subprocess.Popen(
                [str(python), __file__, "--serve", str(together_of(contender))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
            )  # fmt: skip
            assert server.stdout
            url = server.stdout.readline().strip().rstrip("/") + "/v1"
        command = [sys.executable, __file__, "--measure", contender, "--prompts", str(n), "--url", url]
        plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=1800)
        if done.returncode:
            sys.exit(f"{contender}: {done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        if server:
            server.kill()
            server.wait()


def row(contender: str, ours: bool, metric: str, unit: str, values: list[float]) -> dict[str, Any]:
    rounded = [round(value, 3) for value in values]
    median = statistics.median(rounded)
    return {"contender": contender, "ours": ours, "metric": metric, "unit": unit, "values": rounded, "median": median}


def write(out: Path, versions: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a benchmark's rows with what they were measured on and how."""
    result = {"machine": machine(), "versions": versions, "command": "python " + " ".join(sys.argv), "rows": rows}
    out.write_text(json.dumps(result, indent=2) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    """Print a benchmark's medians as a table."""
    print("| what | metric | median |\n|---|---|---:|")
    for r in rows:
        print(f"| {r['contender']} | {r['metric']} | {r['median']} |")


def same_beginning(one: str, other: str) -> int:
    """Characters until two texts part."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="times that every contender runs")
    parser.add_argument("--prompts", type=int, default=64, help="prompts that are answered")
    parser.add_argument("--judged", type=int, default=48, help="rows of the judge's prompt")
    parser.add_argument("--out", type=Path, default=HERE / "llm_local.json", help="file to write")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    if args.measure:
        print(json.dumps(measure(args.measure, args.prompts, args.url)))
        return None
    measured: dict[str, list[dict[str, Any]]] = {}
    for turn in range(args.rounds):
        for name in (*CONTENDERS, "prefix, not reused", "prefix, reused"):
            result = run(name, args.judged if name.startswith("prefix") else args.prompts)
            measured.setdefault(name, []).append(result)
            said = {key: value for key, value in result.items() if key != "texts"}
            print(f"round {turn + 1}: {name}: {said}", file=sys.stderr, flush=True)
    rows = []
    for name, results in measured.items():
        prefix = name.startswith("prefix")
        metric = "prompt_tokens_per_s" if prefix else "tokens_per_s"
        rows.append(row(name, prefix or name == "ours", metric, "1/s", [result[metric] for result in results]))
    # both at 64: the replies of one contender depend a little on what else is in the batch
    for one, other in itertools.combinations(("ours", "transformers, 64", "llama.cpp, 64"), 2):
        pairs = list(zip(measured[one][0]["texts"], measured[other][0]["texts"], strict=True))
        equal = [float(x == y) for x, y in pairs]
        begun = [same_beginning(x, y) / max(len(x), len(y), 1) for x, y in pairs]
        for metric, values in (("equal_answers", equal), ("equal_beginning", begun)):
            rows.append(row(f"{one} and {other}", one == "ours", metric, "share", [statistics.mean(values)]))
    rows += [row(f"weights of type {kind}", True, "difference", "share", [d]) for kind, d in weights_differ().items()]
    versions = {"llama.cpp": LLAMACPP[0]}
    for package in ("openvino-genai", "transformers", "torch"):
        versions[package] = importlib.metadata.version(package)
    write(args.out, versions, rows)
    show(rows)
    return None


if __name__ == "__main__":
    main()
