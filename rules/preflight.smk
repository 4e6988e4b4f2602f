"""Before the first job: what every job inherits, and what has to be there. A dry run asks for nothing."""

import socket
from pathlib import Path

from snakemake.settings.types import DeploymentMethod, ExecMode
from tuneproof import cluster

# The Snakefile is read in the main process and again in every job, on whichever node: the environment is set in both.
cluster.prepare_environment(CONFIG)

# Snakemake refuses even a dry run where Apptainer is wanted and not on PATH. The wish is taken back, so that a plan can
# be made anywhere; a real run is refused below, and a job that finds none on its node fails.
APPTAINER_WANTED = (
    DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
)
if (
    APPTAINER_WANTED
    and workflow.exec_mode == ExecMode.DEFAULT
    and not cluster.apptainer()
):
    workflow.deployment_settings.deployment_method = frozenset(
        workflow.deployment_settings.deployment_method
    ) - {DeploymentMethod.APPTAINER}


onstart:
    if not workflow.touch:
        jobs = list(workflow.dag.needrun_jobs())
        images = [job.container_img_url for job in jobs if job.rule.container_img]
        through_slurm = workflow.executor_plugin.name == "slurm"
        sent = [
            {**dict(job.resources.items()), "rule": job.rule.name}
            for job in jobs
            if not workflow.is_local(job.rule)
        ]
        problems = [
            *cluster.storage_problems(
                {Path.cwd(), Path(os.environ.get("TUNEPROOF_CACHE") or Path.cwd())}
            ),
            *cluster.container_problems(images, APPTAINER_WANTED),
            *(cluster.slurm_problems(sent) if through_slurm else []),
            *keys_missing_for(jobs),
        ]
        if problems:
            raise WorkflowError(*problems)
        for sentence in cluster.stale_images(images) if APPTAINER_WANTED else []:
            logger.warning(sentence)
        # the jobs start from here on, so they inherit it
        cluster.announce(
            method.name.lower()
            for method in workflow.deployment_settings.deployment_method
        )
        # who goes on after this run was killed has to know where to look for it
        Path(".snakemake/tuneproof.host").write_text(socket.gethostname())
