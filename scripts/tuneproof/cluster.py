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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneproof.records import file_sha256, read_json

if TYPE_CHECKING:
    from tuneproof.study import Config

Resources = Mapping[str, Any]

_CACHES = ("TUNEPROOF_CACHE", "HF_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR")
# certificates of the site's own, which the client for APIs trusts
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# the executor refuses a job that asks for another name
_GPU_MODEL = re.compile(r"[a-zA-Z0-9_.]+")


def prepare_environment(config: Config) -> None:
    """Set what every job inherits, on whichever node: no network, caches beside the results and never in the home.

    Called where the Snakefile is read, which is in the main process and in every job. What the caller has set stays.
    """
    for name in _CACHES:  # Apptainer binds what is there
        if own := os.environ.get(name):
            with suppress(OSError):
                Path(own).mkdir(parents=True, exist_ok=True)
    caches = Path.cwd() / ".cache"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    token = Path(os.environ.get("HF_HOME") or f"{home}/huggingface") / "token"  # where `hf auth login` has left it
    defaults = {
        "TUNEPROOF_RUN": uuid.uuid4().hex,  # what the attempts of one run have in common
        "HF_HUB_OFFLINE": "1",  # fetch_model alone sets it to 0
        "HF_HOME": str(caches / "huggingface"),
        "XDG_CACHE_HOME": str(caches),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "PYTHONNOUSERSITE": "1",  # ~/.local has no say in a container
        **({"HF_TOKEN_PATH": str(token)} if os.path.isfile(token) else {}),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # singularity, where there is no apptainer, reads its own; apptainer warns of it
    for variable in ("APPTAINER_BIND", *(() if shutil.which("apptainer") else ("SINGULARITY_BIND",))):
        binds = [b for b in os.environ.get(variable, "").split(",") if b]
        os.environ[variable] = ",".join(dict.fromkeys((*binds, *_outside(config))))


def _outside(config: Config) -> list[str]:
    """Return what jobs read or write outside the folder of the run, which is all that a container sees by itself."""
    found = []
    for path in sorted({str(path) for path in _paths(config) if path}):
        # by its name, which the job says, and by where links lead
        for name in (os.path.abspath(path), os.path.realpath(path)):
            if os.path.exists(name) and not Path(name).is_relative_to(Path.cwd()):
                found.append(name)
    return found


def _paths(config: Config) -> Iterator[Path | str | None]:
    """Yield every path of the configuration and of the environment that a job may use."""
    yield from ("checkpoints", "resources", "results", "store")
    for name in (*_CACHES, *_CERTIFICATES):
        yield from os.environ.get(name, "").split(os.pathsep)
    for corpus in config.corpora.values():
        yield corpus.folder.root if corpus.folder else None
        yield corpus.facts
    for spec in config.datasets.values():
        types = getattr(spec, "types", None)
        yield types.human if types else None
        yield from (getattr(spec, name, None) for name in ("catalogue_file", "folder", "tweets_file", "system"))
    yield from (model.chat_template for model in config.models.values())
    yield from (judge.prompt for judge in config.judges.values())
    yield from (comparison.prompt for comparison in config.study.comparisons.values())
    yield from (trial.path for trial in config.trials.values())


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
        if known and not any("gpu" in gres for gres in _gres(partition)):
            rules = _named((job for job in without_model if job.get("slurm_partition") == partition), "rule")
            problems.append(
                f"slurm_partition: {partition!r} has no GPU, which is asked for by {', '.join(rules)}; expected the "
                "partition of GPU jobs for such a rule under set-resources (edit the profile)"
            )
    refused = [model for model in _named(jobs, "gpu_model") if not _GPU_MODEL.fullmatch(model)]
    problems += [
        f"gpu_model: {model!r} cannot be asked for, expected letters, digits, _ and . only, which is all that "
        "Snakemake's Slurm executor passes on: leave gpu_model out (edit the profile)"
        for model in refused
    ]
    for partition, model in sorted({(j.get("slurm_partition", ""), j.get("gpu_model") or "") for j in jobs}):
        if model and model not in refused and partition in partitions:
            problems += _gpu_model_problems(partition, model)
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


def stale_images(images: Iterable[str]) -> list[str]:
    """Return the images that were built from another definition or lock than those here, by the record beside each."""
    said = []
    for image in sorted(set(images)):
        record, name = Path(f"{image}.json"), Path(image).stem
        made_of = {"definition_sha256": f"containers/{name}.def", "lock_sha256": f"envs/{name}.lock"}
        content = read_json(record) if record.exists() else {}
        said += [
            f"{image}: built from another {file} than the one here; `make image IMAGE={name}` builds it anew"
            for key, file in made_of.items()
            if key in content and Path(file).exists() and file_sha256(Path(file)) != content[key]
        ]
    return said


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


def _gpu_model_problems(partition: str, model: str) -> list[str]:
    """Return why a partition has no GPU of this name, which the executor would pass on; nothing where it has."""
    gres = _gres(partition)
    names = {m for row in gres for m in re.findall(r"gpu:([a-zA-Z][\w.-]*)", row)}
    if model in names:
        return []
    if usable := sorted(filter(_GPU_MODEL.fullmatch, names)):
        expected = f"expected one of {', '.join(usable)}"
    elif any("gpu" in row for row in gres):
        expected = "its GPUs have no names that can be asked for: leave gpu_model out"
    else:
        expected = "its nodes have no GPU"
    return [f"gpu_model: partition {partition!r} has no {model!r}, {expected} (edit the profile)"]


def _gres(partitions: str) -> set[str]:
    """Return the generic resources of the nodes of a partition, or of several with commas between."""
    # all are asked for: `sinfo --all --partition` prints nothing (Slurm 22.05)
    rows = (row.partition(" ") for row in _sinfo("%R %G"))
    return {gres for name, _, gres in rows if name in partitions.split(",")}


def _sinfo(form: str) -> set[str]:
    # without --all a partition that is hidden would be none
    return set(_ask("sinfo", "--all", "--noheader", "--format", form))


def _ask(*command: str) -> list[str]:
    """Return a command's lines; none where it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
