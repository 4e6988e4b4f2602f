"""Print what a study would cost before anything runs: per rule its jobs, hours, calls, tokens, dollars and disk.

    python scripts/plan_study.py --study studies/x.yaml --profile profiles/slurm [--json plan.json]
        [--estimate results/estimate.json]

The jobs are those that Snakemake would run now with that profile: what is done is not planned again.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneproof.errors import InputError, report_errors

if TYPE_CHECKING:
    from tuneproof.plan import Job
    from tuneproof.study import Config


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, type=Path, help="YAML file that is laid over config.yaml")
    parser.add_argument("--profile", required=True, type=Path, help="folder of the profile, e.g. profiles/slurm")
    parser.add_argument("--json", type=Path, help="write the plan as JSON too")
    parser.add_argument(
        "--estimate", type=Path, help="plan the whole study, done or not, and keep it here for the report (JSON)"
    )
    args = parser.parse_args()

    from tuneproof import plan
    from tuneproof.records import write_json
    from tuneproof.study import made

    config, jobs = dry_run(args.study, args.profile, forceall=args.estimate is not None)
    if not jobs:
        print(f"{config.study.name}: nothing is left to do")
        return
    sizes = {d: plan.sizes_of(config, d, counted_rows(config, d)) for d in made(config)}
    lines = plan.plan(config, jobs, sizes)
    print(f"{config.study.name} with {args.profile}: {len(jobs)} jobs{'' if args.estimate else ' are left to do'}\n")
    print(plan.table(lines))
    print("\n" + "\n".join(f"- {note}." for note in plan.notes(config, lines, sizes)))
    print("\nAssumptions:\n\n" + "\n".join(f"- {assumption}" for assumption in plan.assumptions(lines, config)))
    for path in filter(None, (args.json, args.estimate)):
        write_json(path, plan.as_json(config, lines, sizes))


def dry_run(study: Path, profile: Path, forceall: bool = False) -> "tuple[Config, list[Job]]":
    """Return the configuration and the jobs of a dry run, in the order of the rules.

    Snakefile, configuration and profile are read by Snakemake itself, as for a run; with `forceall`, jobs that are
    done are there too. Software is taken to be deployed, so that a machine without Apptainer plans the same jobs.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.cli import parse_args
    from snakemake.settings import types

    for path, what in ((study, "a study"), (profile / "config.yaml", "a profile")):
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected {what}")
    _, args = parse_args(["--profile", str(profile), "--configfile", str(study), "--dry-run"])
    deployed = types.SharedFSUsage.all() - {types.SharedFSUsage.SOFTWARE_DEPLOYMENT}
    quiet = types.OutputSettings(dryrun=True, log_level_override=logging.WARNING, enable_file_logging=False)
    with SnakemakeApi(quiet) as api:
        try:
            read = api.workflow(
                config_settings=types.ConfigSettings(configfiles=args.configfile),
                deployment_settings=types.DeploymentSettings(deployment_method=args.software_deployment_method),
                storage_settings=types.StorageSettings(shared_fs_usage=deployed),
                resource_settings=types.ResourceSettings(
                    cores=args.cores or sys.maxsize,
                    resources=args.resources,
                    overwrite_threads=args.set_threads,
                    overwrite_resources=args.set_resources,
                    default_resources=args.default_resources,
                ),
            )
            settings = types.DAGSettings(
                targets=args.targets,
                forceall=forceall,
                force_incomplete=args.rerun_incomplete,
                rerun_triggers=args.rerun_triggers,
            )
            read.dag(settings).execute_workflow(
                executor="dryrun",
                execution_settings=types.ExecutionSettings(lock=False),
                group_settings=types.GroupSettings(
                    group_components=args.group_components, overwrite_groups=args.groups
                ),
            )
        except Exception as error:
            api.print_exception(error)
            raise InputError(f"{study}: Snakemake cannot plan it; its reason stands above") from None
        workflow = read._workflow  # the pinned Snakemake has no public way to the jobs of a dry run
        return workflow.globals["CONFIG"], planned_jobs(workflow, submits=args.executor not in (None, "local"))


def planned_jobs(workflow: Any, submits: bool) -> "list[Job]":
    """Return what a dry run has gone through; `submits` says that a real run would go through Slurm."""
    from snakemake.resources import GroupResources

    from tuneproof.plan import Job

    order = {rule.name: n for n, rule in enumerate(workflow.rules)}
    jobs = []
    groups: dict[str, Any] = {}
    # "finished" means here that the dry run has passed them
    needed = workflow.dag.needrun_jobs(exclude_finished=False)
    for job in sorted(needed, key=lambda j: (order[j.rule.name], str(j.output))):
        if not job.output:
            continue  # a target such as `all`: nothing runs
        group = workflow.dag.get_job_group(job)
        login = job.rule.name in workflow._localrules and not group  # one that has a group is submitted
        submitted = group.jobid if group else f"job {workflow.dag.jobid(job)}"
        asked, sharing = job.resources, 1
        if group:
            if submitted not in groups:
                # not group.resources, which in a dry run are those of a local run
                groups[submitted] = GroupResources.basic_layered(group.toposorted, workflow.global_resources, False)
            asked, sharing = groups[submitted], len(group)
        minutes = _number(asked.get("runtime"))
        jobs.append(
            Job(
                rule=job.rule.name,
                wildcards=dict(job.wildcards_dict),
                where=place_of(job, login, submits),
                threads=job.threads,
                gpus=int(_number(job.resources.get("gpu")) or 0),
                runtime_min=_number(job.resources.get("runtime")),
                slurm_job=submitted if submits and not login else "",
                asked_cpu_min=minutes and minutes * asked["_cores"] / sharing,
                asked_gpu_min=minutes and minutes * int(_number(asked.get("gpu")) or 0) / sharing,
            )
        )
    return jobs


def place_of(job: Any, login: bool, submits: bool) -> str:
    """Return where a job runs: on the login node, against an API, on a GPU, on a CPU; or all of it here."""
    from tuneproof.plan import API, CPU, GPU, HERE, LOGIN

    if job.resources.get("api"):
        return API
    if not submits:
        return HERE
    if login:
        return LOGIN
    return GPU if job.resources.get("gpu") else CPU


def counted_rows(config: "Config", dataset: str) -> dict[str, int]:
    """Count the rows of a data set's files that exist already."""
    from tuneproof.study import corpus_of

    corpus = Path("resources/corpora") / (corpus_of(config, dataset) or "")
    folder = Path("results/datasets") / dataset
    files = {
        "pages": [corpus / "pages.jsonl"],
        "chunks": [corpus / "chunks.jsonl"],
        "written": [folder / "written.jsonl"],
        "kept": [folder / "pairs.jsonl"],
        "train": [folder / "train.jsonl"],
        "tests": [folder / "test_trained_pages.jsonl", folder / "test_new_pages.jsonl"],
    }
    return {
        name: sum(path.read_bytes().count(b"\n") for path in paths)
        for name, paths in files.items()
        if all(path.exists() for path in paths)
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


if __name__ == "__main__":
    main()
