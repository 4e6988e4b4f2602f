"""What a run needs of the machine and of the site, checked before the first job: one sentence for each thing missing.

Only questions are asked here (PATH, sinfo, sacctmgr, the file system). A dry run asks none of them: a plan can be
made anywhere.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneproof.study import Config

Resources = Mapping[str, Any]


def prepare_environment(config: Config) -> None:
    """Set what every job inherits, on whichever node: no network, caches beside the results and never in the home.

    Called where the Snakefile is read, which is in the main process and in every job. What the caller has set stays.
    """
    caches = Path.cwd() / ".cache"
    defaults = {
        "TUNEPROOF_RUN": uuid.uuid4().hex,  # what the attempts of one run have in common
        "HF_HUB_OFFLINE": "1",  # fetch_model alone sets it to 0
        "HF_HOME": str(caches / "huggingface"),
        "XDG_CACHE_HOME": str(caches),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "PYTHONNOUSERSITE": "1",  # ~/.local has no say in a container
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # a container sees the folder of the run; what lies elsewhere has to be named
    outside = {corpus.folder.root for corpus in config.corpora.values() if corpus.folder}
    for spec in config.datasets.values():
        types = getattr(spec, "types", None)
        own = (getattr(spec, name, None) for name in ("catalogue_file", "folder", "tweets_file"))
        outside |= {p for p in (*own, types and types.human) if p}
    outside |= {path for path in map(Path, ("checkpoints", "resources", "results", "store")) if path.is_symlink()}
    if cache := os.environ.get("TUNEPROOF_CACHE"):
        outside.add(Path(cache))
    binds = [b for b in os.environ.get("APPTAINER_BIND", "").split(",") if b]
    binds += [str(p.resolve()) for p in sorted(outside) if p.exists() and str(p.resolve()) not in binds]
    os.environ["APPTAINER_BIND"] = ",".join(binds)


def announce(deployment: Iterable[str]) -> None:
    """Tell all jobs of this run, for the manifest, of which commit it is and by what their software is deployed.

    The commit ends in "-dirty" where a tracked file was edited, and is "" outside a checkout.
    """
    commit = _ask("git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    os.environ["TUNEPROOF_REVISION"] = "".join(commit)
    os.environ["TUNEPROOF_DEPLOYMENT"] = ", ".join(sorted(deployment)) or "the caller's environment"


def slurm_problems(jobs: Iterable[Resources]) -> list[str]:
    """Return what keeps Slurm from taking these jobs: no Slurm, an account, a partition or a GPU it does not have.

    A job is its resources and, as `rule`, the name of its rule.
    """
    jobs = list(jobs)
    if not jobs:
        return []
    if not shutil.which("sbatch"):
        return [
            "no sbatch on PATH, expected Slurm: start this on the cluster's login node, or use --profile profiles/local"
        ]
    partitions = _sinfo("%R")
    if not partitions:
        return ["Slurm does not answer (`sinfo` lists no partition): ask again later, or see `sinfo` yourself"]
    problems = []
    accounts, named = _accounts(), _named(jobs, "slurm_account")
    for account in named:
        if accounts and account.lower() not in accounts:
            problems.append(
                f"slurm_account: {account!r} is no account of {getpass.getuser()}, expected one of "
                f"{', '.join(sorted(accounts))} (edit the profile)"
            )
    if accounts and not named:
        problems.append(f"slurm_account: none is given, expected one of {', '.join(sorted(accounts))}")
    for partition in _named(jobs, "slurm_partition"):
        for name in partition.split(","):
            if name not in partitions:
                problems.append(
                    f"slurm_partition: {name!r} is no partition here, expected one of {', '.join(sorted(partitions))} "
                    "(edit the profile)"
                )
    without_model = [job for job in jobs if job.get("gpu") and not job.get("gpu_model")]
    for partition in _named(without_model, "slurm_partition"):
        known = partitions.issuperset(partition.split(","))
        if known and not any("gpu" in gres for gres in _sinfo("%G", "--partition", partition)):
            rules = _named((job for job in without_model if job.get("slurm_partition") == partition), "rule")
            problems.append(
                f"slurm_partition: {partition!r} has no GPU, which is asked for by {', '.join(rules)}; expected the "
                "partition of GPU jobs for such a rule under set-resources (edit the profile)"
            )
    for partition, model in sorted(
        {(j.get("slurm_partition", ""), j["gpu_model"]) for j in jobs if j.get("gpu_model")}
    ):
        offered = _gpu_models(partition) if partition in partitions else None
        if offered is not None and model not in offered:
            problems.append(
                f"gpu_model: partition {partition!r} has no {model!r}, expected one of "
                f"{', '.join(sorted(offered)) or 'none: its nodes have no GPU'} (edit the profile)"
            )
    return problems


def container_problems(images: Iterable[str], wanted: bool) -> list[str]:
    """Return what keeps jobs from their containers. `wanted`: the run was asked to use Apptainer."""
    if not wanted:
        return []
    if not apptainer():
        return [
            "no apptainer on PATH, though the profile asks for containers: load it (module load apptainer), "
            "or run with `--sdm conda`"
        ]
    return [
        f"{image}: no such image, expected `make image IMAGE={Path(image).stem}` to have built it"
        for image in sorted(set(images))
        if "://" not in image and not Path(image).exists()
    ]


def storage_problems(folders: Iterable[Path]) -> list[str]:
    """Return the folders that cannot be written: results, caches, scratch."""
    problems = []
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            problems.append(f"{folder}: {os.strerror(error.errno or 0).lower()}, expected a folder that can be written")
    return problems


def leftover_jobs(folder: Path) -> dict[str, str]:
    """Return Slurm's jobs (id -> state) that an earlier run of Snakemake in this folder has submitted.

    The executor names every job by its run's UUID and starts it in the folder of the run.
    """
    if not shutil.which("squeue"):
        return {}
    rows = _ask("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i|%j|%T|%Z")
    jobs = {}
    for identity, name, state, where in (row.split("|", 3) for row in rows):
        if re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", name) and Path(where).resolve() == folder.resolve():
            jobs[identity] = state
    return jobs


def apptainer() -> str | None:
    """Return the program that runs containers, if there is one."""
    return shutil.which("apptainer") or shutil.which("singularity")


def _named(jobs: Iterable[Resources], resource: str) -> list[str]:
    return sorted({str(job[resource]) for job in jobs if job.get(resource)})


def _accounts() -> set[str]:
    """Return the user's accounts; none where the site keeps no accounts."""
    return {a.lower() for a in _ask("sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=account")}


def _gpu_models(partition: str) -> set[str]:
    return {m for row in _sinfo("%G", "--partition", partition) for m in re.findall(r"gpu:([a-zA-Z][\w.-]*)", row)}


def _sinfo(form: str, *options: str) -> set[str]:
    return set(_ask("sinfo", "--noheader", "--format", form, *options))


def _ask(*command: str) -> list[str]:
    """Return a command's lines; none where it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
