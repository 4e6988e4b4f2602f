"""What Snakemake and Slurm add to the default study, without and with groups of small jobs; a study of 1,000 runs.

    python benchmarks/cluster.py [--costs results/costs] [--repeats 3] [--out benchmarks/cluster.json]

Every job is run with a `python` that only makes the declared outputs: what is left is what the machinery costs. The
contenders take turns. CPU-seconds are Snakemake's with all that it starts, and those of Slurm's daemons with all jobs.
Slurm is the private one of tests/cluster: three nodes that share this machine's cores. The study's own work is read
from the benchmarks (*.tsv) that a really executed study has left in --costs.

Two settings differ from the shipped profile, so that no-op jobs are not waited for: --latency-wait, and the seconds
before Slurm is asked for the first time, which are 3 instead of 20. One contender keeps the shipped 20.
"""

import argparse
import csv
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cluster")]

import private_apptainer  # noqa: E402
from copies import copy_workflow  # noqa: E402
from private_slurm import PrivateSlurm  # noqa: E402

PATIENCE = ("--latency-wait", "10")
PACE = ("--slurm-init-seconds-before-status-checks", "3")
NO_CONTAINER = ("--sdm", "env-modules")
RUNS = 1000

# The default study's Slurm jobs as they wait for each other, with the rules whose costs are measured in each.
STAGES = (
    ("prepare_student", "extract_pages", "chunk_pages", "index_chunks"),
    ("write_pairs",),
    ("screen_pairs",),
    ("rephrase_questions",),
    ("retrieve",),
    ("train",),
    ("answer",),
    ("judge",),
    (),  # the report
)
START = 5.0  # seconds that a Slurm job takes without its work, as measured here

# Shell builtins only, and only one rule's outputs, so that it takes a millisecond. Snakemake has made a job's folders;
# where one is missing, the file is another job's.
STUB = """#!/bin/sh
rule=${1##*/}
while read -r file; do
    [ -d "${file%/*}" ] || continue
    case "$file" in */site) [ -d "$file" ] || mkdir "$file" ;; *) [ -e "$file" ] || : > "$file" ;; esac
done < "stub/${rule%.py}"
"""


@dataclass(frozen=True)
class Contender:
    """A way to run the study's DAG. `shipped`: all that the profile says about grouping is left as it is."""

    name: str
    profile: str
    options: tuple[str, ...]
    grouped: bool = True
    container: bool = False
    once: bool = False
    shipped: bool = False


CONTENDERS = (
    Contender("this machine, without Slurm", "local", ()),
    Contender("Slurm, no groups", "slurm", (*PATIENCE, *PACE, *NO_CONTAINER), grouped=False),
    Contender("Slurm, groups of the profile", "slurm", (*PATIENCE, *PACE, *NO_CONTAINER), shipped=True),
    Contender("Slurm, groups, in the image", "slurm", (*PATIENCE, *PACE), container=True),
    Contender("Slurm, groups, asked every 20 s as shipped", "slurm", (*PATIENCE, *NO_CONTAINER), once=True),
)


@dataclass
class Measured:
    """What the runs of one contender took, a value per run."""

    slurm_jobs: list[float] = field(default_factory=list)
    planned: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_main: list[float] = field(default_factory=list)
    cpu_slurm: list[float] = field(default_factory=list)
    cpu_jobs: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> list[float]:
        """Everything: Snakemake, Slurm's daemons, the jobs."""
        return [a + b for a, b in zip(self.cpu_main, self.cpu_slurm, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=ROOT / "results" / "costs", help="of a really executed study")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "cluster.json")
    args = parser.parse_args()
    work = work_of(args.costs)
    with tempfile.TemporaryDirectory(prefix="tuneproof-") as scratch, PrivateSlurm(Path(scratch) / "s") as slurm:
        apptainer = private_apptainer.install(Path(scratch) / "apptainer")
        measured = {c: Measured() for c in CONTENDERS if not c.container or image()}
        plans: dict[str, list[dict[str, float]]] = {"groups of the profile": [], "no groups": []}
        for turn in range(args.repeats):
            for number, contender in enumerate(measured):
                if turn == 0 or not contender.once:
                    folder = Path(scratch) / f"study{turn}.{number}"  # what tells its Slurm jobs from the others'
                    run(contender, folder, slurm, apptainer, measured[contender])
            for name, plan in plans.items():
                plan.append(plan_of(Path(scratch) / "plan", RUNS, grouped=name != "no groups"))
        versions = versions_of(slurm, apptainer)
    jobs = int(plans["no groups"][0]["default jobs"])
    rows = [*rows_of(measured, work), *rows_of_plans(plans, measured, work, jobs)]
    print(table(rows))
    command = shlex.join(["python", "benchmarks/cluster.py", *sys.argv[1:]])
    record = {
        "command": command,
        "machine": machine(),
        "versions": versions,
        "interleaved": True,
        "pace": "first status check after 3 s; the profile ships 20 s, as in the contender that says so",
        "work_of_the_default_study": work,  # seconds are summed, though jobs may have run side by side
        "rows": rows,
    }
    args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def work_of(costs: Path) -> dict[str, float]:
    """Sum Snakemake's benchmarks of an executed study: what its jobs themselves took."""
    seconds: dict[str, float] = {}
    cpu, jobs = 0.0, 0
    for path in sorted(costs.rglob("*.tsv")):
        cost = next(csv.DictReader(path.open(), delimiter="\t"))
        rule = path.relative_to(costs).parts[0].split(".")[0]
        seconds[rule] = seconds.get(rule, 0.0) + float(cost["s"])
        cpu += float(cost["cpu_time"])
        jobs += 1
    if not jobs:
        sys.exit(f"error: {costs}: no *.tsv here, expected the costs of an executed default study (make demo)")
    unnoticed = 0.0
    for rules in STAGES:
        took = START + sum(seconds.get(rule, 0.0) for rule in rules)
        unnoticed += noticed(took) - took
    return {
        "jobs": jobs,
        "seconds": round(sum(seconds.values()), 1),
        "cpu_seconds": round(cpu, 1),
        "unnoticed": round(unnoticed, 1),
    }


def noticed(seconds: float, first: int = 20) -> float:
    """When the executor notices the end of the only job that runs: it asks after 20 s, 30 s later, 40 s after that…"""
    asked, pause = float(first), first
    while asked < seconds:
        pause = min(pause + 10, 180)
        asked += pause
    return asked


def image() -> Path | None:
    """Return the image of the CPU jobs, where it has been built."""
    path = ROOT / "containers" / "cpu.sif"
    return path if path.exists() else None


# --- a run ---


def run(contender: Contender, folder: Path, slurm: PrivateSlurm, apptainer: Path, into: Measured) -> None:
    """Run the default study without its work, in a new folder, and add what it took."""
    study(folder, contender)
    environment = environment_of(folder, slurm, apptainer, contender)
    planned = plan(folder, "config.yaml", contender.profile)
    before = cpu_below(os.getpid())
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{contender.profile}", *contender.options]
    began = time.monotonic()
    with (folder / "run.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    printed = (folder / "run.log").read_text()
    if process.returncode or not (folder / "results" / "report.html").exists():
        sys.exit(f"error: {contender.name}: {shlex.join(command)} failed:\n{printed[-4000:]}")
    into.slurm_jobs.append(len(re.findall(r"has been submitted with SLURM jobid", printed)))
    into.planned.append(planned["total"]["slurm_jobs"])
    into.seconds.append(seconds)
    into.cpu_main.append(usage.ru_utime + usage.ru_stime)
    ended = accounted(slurm, folder, int(into.slurm_jobs[-1]))
    into.cpu_slurm.append(cpu_below(os.getpid()) - before if into.slurm_jobs[-1] else 0.0)
    into.cpu_jobs.append(sum(ended))
    print(
        f"{contender.name}: {into.slurm_jobs[-1]:.0f} Slurm jobs, {seconds:.1f} s, {into.cpu[-1]:.1f} CPU-s", flush=True
    )
    shutil.rmtree(folder)


def study(folder: Path, contender: Contender) -> None:
    """Copy the workflow and put a `python` beside it that makes what the rules declare."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_workflow(folder)
    if not contender.grouped:
        without_groups(folder)
    plan = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "-n"],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    outputs: dict[str, list[str]] = {}
    rule = ""
    for line in map(str.strip, plan.splitlines()):
        if found := re.match(r"(?:local)?rule (\w+):", line):
            rule = found[1]
        elif line.startswith("output: "):
            outputs.setdefault(rule, []).extend(line.removeprefix("output: ").split(", "))
    (folder / "stub" / "bin").mkdir(parents=True)
    for rule, files in outputs.items():
        (folder / "stub" / rule).write_text("\n".join(files) + "\n")
    stub = folder / "stub" / "bin" / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    if contender.container and (sif := image()):
        (folder / "containers").mkdir()
        try:
            os.link(sif, folder / "containers" / sif.name)
        except OSError:  # another disk
            shutil.copy(sif, folder / "containers")


def without_groups(folder: Path) -> None:
    """Take the groups out of the profile and out of the rules."""
    profile = folder / "profiles" / "slurm" / "config.yaml"
    settings = yaml.safe_load(profile.read_text())
    for key in ("groups", "group-components"):
        settings.pop(key, None)
    profile.write_text(yaml.safe_dump(settings, sort_keys=False))
    for rules in (folder / "rules").glob("*.smk"):
        rules.write_text(re.sub(r"^    group:\n.*\n", "", rules.read_text(), flags=re.MULTILINE))


def environment_of(folder: Path, slurm: PrivateSlurm, apptainer: Path, contender: Contender) -> dict[str, str]:
    """Put the stub first on PATH, of jobs in a container too; Snakemake itself is started by its full name."""
    clients = slurm.environment["PATH"].split(":")[0] if contender.profile == "slurm" else ""
    places = [folder / "stub" / "bin", clients, apptainer if contender.container else "", Path(sys.executable).parent]
    return {
        **os.environ,
        **slurm.environment,
        "PATH": ":".join([*map(str, filter(None, places)), os.environ["PATH"]]),
        "APPTAINERENV_PREPEND_PATH": str(folder / "stub" / "bin"),
        "APPTAINER_NO_PRIVS": "1",
    }


def accounted(slurm: PrivateSlurm, folder: Path, jobs: int) -> list[float]:
    """Wait until the database knows of the end of all jobs; return the CPU-seconds of each, as sacct sums its steps."""
    for _ in range(120):
        # with the steps: --allocations alone leaves their CPU time out; the line of a job is then the sum of its steps
        known = slurm.sacct("JobID", "State", "TotalCPU", "WorkDir", steps=True)
        rows = [row for row in known if "." not in row["JobID"] and row["WorkDir"] == str(folder)]
        if len(rows) == jobs and {row["State"] for row in rows} <= {"COMPLETED"} and not slurm.squeue():
            took = [seconds_of(row["TotalCPU"]) for row in rows]
            if jobs and not all(took):
                sys.exit(f"error: sacct has no CPU time for some of {folder}'s jobs: {took}")
            return took
        time.sleep(0.5)
    sys.exit(f"error: {jobs} jobs were submitted, the database says {[row['State'] for row in rows]}")


def seconds_of(duration: str) -> float:
    """Read Slurm's [DD-[HH:]]MM:SS[.mmm]."""
    days, _, rest = duration.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds + 86400 * int(days or 0)


def cpu_below(pid: int) -> float:
    """CPU-seconds of all living processes below one, with those of the children that they have outlived.

    Below this script are Slurm's daemons, and all that a job has started ends as a child of its node's first process.
    """
    times = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            times.append(process.cpu_times())
        except psutil.NoSuchProcess:
            continue
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


# --- plans ---


def plan(folder: Path, overlay: str, profile: str) -> dict:
    command = [sys.executable, "scripts/plan_study.py", "--study", overlay, "--profile", f"profiles/{profile}"]
    subprocess.run([*command, "--json", "plan.json"], cwd=folder, capture_output=True, check=True)
    return json.loads((folder / "plan.json").read_text())


def plan_of(folder: Path, runs: int, grouped: bool) -> dict[str, float]:
    """Plan the default study with that many seeds: its jobs, and what planning it takes."""
    shutil.rmtree(folder, ignore_errors=True)
    copy_workflow(folder)
    if not grouped:
        without_groups(folder)
    (folder / "many.yaml").write_text(f"study:\n  seeds: {list(range(1, runs + 1))}\n")
    command = [sys.executable, "scripts/plan_study.py", "--study", "many.yaml", "--profile", "profiles/slurm"]
    began = time.monotonic()
    with (folder / "plan.log").open("wb") as log:
        process = subprocess.Popen([*command, "--json", "plan.json"], cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode:
        sys.exit((folder / "plan.log").read_text())
    total = json.loads((folder / "plan.json").read_text())["total"]
    default = plan(folder, "config.yaml", "slurm")
    login = sum(line["jobs"] for line in default["lines"] if not line["slurm_jobs"])
    return {
        "jobs": total["jobs"],
        "Slurm jobs": total["slurm_jobs"],
        "seconds of the dry run": seconds,
        "peak memory of the dry run": usage.ru_maxrss / 1000,
        "default jobs": default["total"]["jobs"] - login,
        "submitted": total["jobs"] - login,
    }


# --- rows ---


def row(contender: str, ours: bool, metric: str, unit: str, values: list[float], digits: int = 1) -> dict:
    values = [round(value, digits) for value in values]
    return {
        "contender": contender,
        "ours": ours,
        "metric": metric,
        "unit": unit,
        "values": values,
        "median": round(statistics.median(values), digits),
    }


def rows_of(measured: dict[Contender, Measured], work: dict[str, float]) -> Iterator[dict]:
    """The default study: one row per contender and metric."""
    for contender, m in measured.items():
        name, ours = contender.name, contender.shipped
        yield row(name, ours, "Slurm jobs", "jobs", m.slurm_jobs, 0)
        yield row(name, ours, "Slurm jobs, as planned", "jobs", m.planned, 0)
        yield row(name, ours, "seconds", "s", m.seconds)
        yield row(name, ours, "CPU-seconds", "CPU-s", m.cpu)
        yield row(name, ours, "CPU-seconds in Slurm jobs", "CPU-s", m.cpu_jobs)
        yield row(name, ours, "CPU-seconds of Snakemake and its clients", "CPU-s", m.cpu_main)
        if contender.once:
            metric = "seconds that ended jobs of the executed study wait to be noticed, derived"
            yield row(name, ours, metric, "s", [work["unnoticed"]])
        share = [100 * value / work["seconds"] for value in m.seconds]
        yield row(name, ours, "share of the summed seconds of the study's jobs", "%", share)
        share = [100 * value / work["cpu_seconds"] for value in m.cpu]
        yield row(name, ours, "share of the study's CPU-seconds", "%", share)


def rows_of_plans(
    plans: dict[str, list[dict[str, float]]], measured: dict[Contender, Measured], work: dict[str, float], jobs: int
) -> Iterator[dict]:
    """A study of many runs: its plan, and the CPU-hours that follow from the two ways to run the default study."""
    by_name = {contender.name: m for contender, m in measured.items()}
    single, grouped = by_name["Slurm, no groups"], by_name["Slurm, groups of the profile"]
    saved = statistics.median(single.cpu_jobs) - statistics.median(grouped.cpu_jobs)
    per_slurm_job = saved / (statistics.median(single.slurm_jobs) - statistics.median(grouped.slurm_jobs))
    per_job = statistics.median(single.cpu_jobs) / jobs - per_slurm_job
    yield row("Slurm", False, "CPU-seconds per Slurm job", "CPU-s", [per_slurm_job], 2)
    yield row("Slurm", False, "CPU-seconds per job in it", "CPU-s", [per_job], 2)
    for name, values in plans.items():
        contender, ours = f"plan of {RUNS:,} runs, {name}", name == "groups of the profile"
        for metric, unit, digits in (
            ("jobs", "jobs", 0),
            ("Slurm jobs", "jobs", 0),
            ("seconds of the dry run", "s", 1),
            ("peak memory of the dry run", "MB", 0),
        ):
            yield row(contender, ours, metric, unit, [value[metric] for value in values], digits)
        hours = (per_slurm_job * values[0]["Slurm jobs"] + per_job * values[0]["submitted"]) / 3600
        yield row(contender, ours, "CPU-hours that Slurm jobs add, derived", "CPU-h", [hours], 2)


def table(rows: list[dict]) -> str:
    lines = [("contender", "metric", "median", "unit", "runs")]
    for entry in rows:
        values = " ".join(f"{value:g}" for value in entry["values"])
        lines.append((entry["contender"], entry["metric"], f"{entry['median']:g}", entry["unit"], values))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def machine() -> dict[str, str | int]:
    model = next((x.split(": ")[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**9
    return {"cpu": model, "cores": os.cpu_count() or 0, "memory_gb": memory, "system": platform.platform()}


def versions_of(slurm: PrivateSlurm, apptainer: Path) -> dict[str, str]:
    said = subprocess.run([apptainer / "apptainer", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "python": platform.python_version(),
        "snakemake": version("snakemake"),
        "snakemake-executor-plugin-slurm": version("snakemake-executor-plugin-slurm"),
        "slurm": slurm.run("sinfo", "--version").split()[-1],
        "apptainer": said.split()[-1],
    }


if __name__ == "__main__":
    main()
