"""Time this repository's client for API models beside others, on the same stub server: `make bench-llm`.

    python benchmarks/llm.py [--rounds 3] [--rows 2048] [--long 100000]

Each contender has an environment of its own under benchmarks/local, made here; contenders take turns, round by round,
each against a fresh server in a process of its own that answers after 200 ms. With 64 requests under way no client can
be faster than 320 requests/s. --long asks once as many rows of a server that answers after 20 ms, for the memory.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LOCAL = HERE / "local"
# contender: what is installed for it; None: this repository's environment
CONTENDERS: dict[str, list[str] | None] = {
    "ours": None,
    "aiohttp": None,
    "gather": None,
    "curator": ["bespokelabs-curator==0.1.31"],
    "litellm": ["litellm==1.106.2"],
    "distilabel": ["distilabel[openai]==1.5.3", "requests"],  # it imports requests without asking for it
}
CONCURRENCY, ANSWER_MS = 64, 200
METRICS = {"requests_per_s": "1/s", "processor_ms_per_call": "ms", "processor_s": "s", "peak_mb": "MB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that every contender runs")
    parser.add_argument("--rows", type=int, default=2048, help="requests of one run")
    parser.add_argument("--long", type=int, default=0, help="rows of one more run of ours, for its memory")
    parser.add_argument("--out", type=Path, default=HERE / "llm.json", help="file to write")
    args = parser.parse_args()
    pythons = {name: environment(name, packages) for name, packages in CONTENDERS.items()}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for turn in range(args.rounds):
        for name, python in pythons.items():
            measured[name].append(run(python, name, args.rows, ANSWER_MS))
            print(f"round {turn + 1}: {name}: {measured[name][-1]}", file=sys.stderr, flush=True)
    rows = [
        row(name, metric, [values[metric] for values in measured[name]]) for name in CONTENDERS for metric in METRICS
    ]
    if args.long:
        once = run(pythons["ours"], "ours", args.long, 20)
        rows += [row(f"ours, {args.long:,} rows", metric, [once[metric]]) for metric in METRICS]
    result = {
        "machine": machine(),
        "versions": {name: version(python, name) for name, python in pythons.items()},
        "command": "python " + " ".join(sys.argv),
        "settings": {"rows": args.rows, "concurrency": CONCURRENCY, "answer_ms": ANSWER_MS},
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows))


def row(contender: str, metric: str, values: list[float]) -> dict[str, object]:
    return {
        "contender": contender,
        "ours": contender.startswith("ours"),
        "metric": metric,
        "unit": METRICS[metric],
        "values": [round(value, 3) for value in values],
        "median": round(statistics.median(values), 3),
    }


def environment(name: str, packages: list[str] | None) -> Path:
    """The Python of a contender's environment, which is made where it is not there."""
    if packages is None:
        return Path(sys.executable)
    folder = LOCAL / name
    done = folder / "installed.json"
    if not done.exists() or json.loads(done.read_text()) != packages:
        shutil.rmtree(folder, ignore_errors=True)
        uv = [str(Path(sys.executable).with_name("uv"))]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        python = str(folder / "bin" / "python")
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
        done.write_text(json.dumps(packages))
    return folder / "bin" / "python"


def run(python: Path, name: str, rows: int, answer_ms: int) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, str(HERE / "llm_stub.py"), "--milliseconds", str(answer_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        with tempfile.TemporaryDirectory() as folder:
            command = [str(python), str(HERE / "llm_clients.py"), name, "--url", url, "--rows", str(rows)]
            command += ["--concurrency", str(CONCURRENCY), "--folder", folder]
            # no proxy stands between this machine and itself
            plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
            done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=1800)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-3000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
    finally:
        server.kill()
        server.wait()
    return {
        "requests_per_s": rows / result["seconds"],
        "processor_ms_per_call": 1000 * result["processor_seconds"] / rows,
        "processor_s": result["processor_seconds"],
        "peak_mb": result["peak_mb"],
    }


def machine() -> dict[str, object]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    system = f"{platform.system()} {platform.machine()}"
    return {"cpu": cpu, "cores": os.cpu_count(), "system": system, "python": platform.python_version()}


def version(python: Path, name: str) -> dict[str, str]:
    wanted = {"curator": "bespokelabs-curator"}.get(name, name)
    program = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    installed = json.loads(subprocess.run([str(python), "-c", program], capture_output=True, check=True).stdout)
    return {key: installed[key] for key in (wanted, "openai", "aiohttp") if key in installed}


def table(rows: list[dict[str, object]]) -> str:
    contenders = list(dict.fromkeys(str(r["contender"]) for r in rows))
    medians = {(r["contender"], r["metric"]): r["median"] for r in rows}
    lines = ["| client | requests/s | processor ms a call | processor s | peak MB |", "|---|---:|---:|---:|---:|"]
    for name in contenders:
        lines.append(f"| {name} | " + " | ".join(f"{medians[name, metric]:.2f}" for metric in METRICS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
