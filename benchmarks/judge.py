"""Time this repository's judge beside prometheus-eval's client on the same engine: `make bench-judge`.

    TUNEPROOF_DATA=… python benchmarks/judge.py [--judgements 1000] [--written 1000] [--parts 4]

The default study's judge scores answers to questions of NQ that people have judged
($TUNEPROOF_DATA/judge-calibration/evouna), with prometheus-eval's prompt. The contenders:

    ours                     the score is the mean over the probabilities of 1 to 5: nothing is written
    ours, prefix not reused  the same; keys and values of what all prompts begin with are computed for each
    ours, written            feedback and score are written, greedily, and read by the strict parser; never asked again
    prometheus-eval          its client as it comes (feedback sampled, asked again where no score is read, ten times)

All read the same messages on OpenVINO GenAI with the same settings, in a process of their own each time; they take
turns part by part, beginning with another one each time. Loading is counted, imports are not. Beside the rate stands
what it is worth: AUC against people's verdicts, and the share without a score. The file is written after every part.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm import HERE, environment
from llm_local import MODEL, openvino, row, show, write

ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "scripts"))
PROMPT = ROOT / "prompts/judge.prometheus-eval.txt"
# fschat has the module `fastchat` that the client imports; the package `fastchat`, which it asks for, is another one
ENGINE = f"openvino-genai=={importlib.metadata.version('openvino-genai')}"
CLIENT = ["prometheus-eval==0.1.20", "fschat==0.2.36", ENGINE]
CONTENDERS = ("ours", "ours, prefix not reused", "ours, written", "prometheus-eval")
WRITING = CONTENDERS[2:]


def drawn(n: int) -> list[Any]:
    """The first n judged answers, in an order that a seed gives."""
    from tuneproof.trials import evouna

    if not (data := os.environ.get("TUNEPROOF_DATA")):
        sys.exit("TUNEPROOF_DATA is not set, expected the folder that holds judge-calibration/")
    # five systems have answered nearly every question
    return evouna.draw(Path(data, "judge-calibration/evouna/NQ.json"), n // 5 + n // 50 + 1, seed=1)[:n]


def defaults() -> Any:
    """What the default study's judge is loaded with, by the schema."""
    from tuneproof.study import OpenVINOLLM

    return OpenVINOLLM(engine="openvino", model=MODEL.parent.name)


def requests(rows: list[Any], scoring: Any) -> list[Any]:
    from tuneproof.llm.prompts import read_prompt
    from tuneproof.scores import judge
    from tuneproof.trials import evouna

    answers, examples = evouna.as_asked(rows)
    return judge.requests(answers, examples, read_prompt(PROMPT, judge.GAPS), scoring)


def ours(contender: str, rows: list[Any]) -> dict[str, Any]:
    """Judge with our engine and client, in this process."""
    from tuneproof.scores import judge

    scoring: Any = "generated" if contender in WRITING else "expected"
    wanted = requests(rows, scoring)
    began = time.perf_counter()
    replies, _ = openvino(wanted, reuse="not reused" not in contender, concurrent=defaults().max_concurrent)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "scores": [judge.score_of(r, scoring) for r in replies], "asked": len(replies)}


def run(contender: str, first: int, end: int, folder: Path) -> dict[str, Any]:
    """Have one contender judge rows first to end, in a process of its own."""
    log = folder / f"{contender}.log"
    if contender == "prometheus-eval":
        job = folder / "job.json"
        job.write_text(json.dumps(as_the_client_takes_it(drawn(end)[first:])))
        python = environment("prometheus_eval", CLIENT)
        command = [str(python), str(HERE / "judge_client.py"), str(job)]
    else:
        command = [sys.executable, __file__, "--measure", contender, "--first", str(first), "--judgements", str(end)]
    plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    plain["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the client's library asks for prices, which nobody needs here
    with log.open("w") as stream:
        done = subprocess.run(command, env=plain, stdout=subprocess.PIPE, stderr=stream, text=True)
    if done.returncode:
        sys.exit(f"{contender}: {log.read_text()[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def as_the_client_takes_it(rows: list[Any]) -> dict[str, Any]:
    """The judgements as prometheus-eval's client takes them, and the messages that they have to come to."""
    from tuneproof.llm.openvino import READ_TOGETHER

    file = json.loads(MODEL.read_text())["files"][0]["name"]
    prompt = PROMPT.read_text()
    messages = [request.messages for request in requests(rows, "generated")]
    scheduler = {"enable_prefix_caching": True, "max_num_seqs": defaults().max_concurrent}
    return {
        "file": str(MODEL.parent / file),
        "scheduler": scheduler | {"max_num_batched_tokens": READ_TOGETHER, "cache_size": defaults().kv_cache_gb},
        "instructions": [r.question for r in rows],
        "responses": [r.text for r in rows],
        "references": [" or ".join(r.references) for r in rows],
        "rubric": prompt.partition("###Score Rubrics:\n")[2].partition("\n\n###Feedback")[0],
        "messages": messages,
    }


def auc(results: list[dict[str, Any]], correct: list[bool]) -> list[float]:
    """The share of pairs of a right and a wrong answer that the judge puts in order; no score counts as the lowest.

    Nothing where all that was judged so far is right, or all is wrong.
    """
    from sklearn.metrics import roc_auc_score

    scores = [0.0 if score is None else float(score) for result in results for score in result["scores"]]
    people = correct[: len(scores)]
    return [float(roc_auc_score(people, scores))] if len(set(people)) == 2 else []


def tabulate(measured: dict[str, list[dict[str, Any]]], correct: list[bool]) -> list[dict[str, Any]]:
    """Return the rows of what is measured so far."""
    rows = []
    rates = {name: [len(r["scores"]) / r["seconds"] for r in results] for name, results in measured.items()}
    for name, results in measured.items():
        mine, judged = name.startswith("ours"), [score for r in results for score in r["scores"]]
        rows.append(row(name, mine, "judgements_per_s", "1/s", rates[name]))
        rows.append(row(name, mine, "judgements", "count", [len(judged)]))
        rows.append(row(name, mine, "replies", "per judgement", [sum(r["asked"] for r in results) / len(judged)]))
        rows.append(row(name, mine, "missing", "share", [judged.count(None) / len(judged)]))
        rows += [row(name, mine, "auc", "share", [value]) for value in auc(results, correct)]
    for name, other in rates.items():
        if name != "ours" and "ours" in rates:
            times = [own / theirs for own, theirs in zip(rates["ours"], other, strict=False)]
            rows.append(row(f"ours and {name}", True, "times_as_fast", "ratio", times))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judgements", type=int, default=1000, help="answers that are judged by distribution")
    parser.add_argument("--written", type=int, default=1000, help="answers, the first of these, with written feedback")
    parser.add_argument("--parts", type=int, default=4, help="parts that the contenders judge in turn")
    parser.add_argument("--out", type=Path, default=HERE / "judge.json", help="file to write")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(ours(args.measure, drawn(args.judgements)[args.first :])))
        return
    correct = [r.correct for r in drawn(max(args.judgements, args.written))]
    measured: dict[str, list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in range(args.parts):
            for name in (*CONTENDERS[part % 4 :], *CONTENDERS[: part % 4]):
                n = args.written if name in WRITING else args.judgements
                result = run(name, part * n // args.parts, (part + 1) * n // args.parts, Path(folder))
                measured.setdefault(name, []).append(result)
                rows = tabulate(measured, correct)
                write(args.out, {"client": CLIENT[:2], "engine": ENGINE}, rows)
                said = f"{len(result['scores'])} in {result['seconds']:.1f} s"
                print(f"part {part + 1} of {args.parts}: {name}: {said}", file=sys.stderr, flush=True)
    show(rows)


if __name__ == "__main__":
    main()
