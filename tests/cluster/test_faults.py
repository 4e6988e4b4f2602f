"""One training meets every fault that a cluster has, one after the other, and ends as if nothing had happened."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
from cluster.conftest import ClusterStudy, wait_for
from copies import clone, give_image

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RUN = "results/runs/smollm2-135m-instruct/lora/haldrune/seed1"
LOG = f"{RUN}/train_log.jsonl"
ADAPTER = f"{RUN}/adapter/adapter_model.safetensors"
OVERLAY = ("--configfile", "faults.yaml")
SAVE_STEPS = 3


def events(study):
    """The training's journal so far: in its checkpoints' folder, in the end with the run."""
    files = [*study.folder.glob("checkpoints/*/journal.jsonl"), study.folder / RUN / "journal.jsonl"]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def begins(study):
    return [row for row in events(study) if row["event"] == "begin"]


def steps_of_attempt(study, number):
    """The steps that one attempt has computed, in order."""
    steps, attempt = [], 0
    for row in events(study):
        attempt += row["event"] == "begin"
        if attempt == number and row["event"] == "step":
            steps.append(row["step"])
    return steps


def last_saved(study):
    seals = study.folder.glob("checkpoints/*/checkpoint-*/complete.json")
    return max((int(path.parent.name.split("-")[1]) for path in seals), default=0)


@pytest.fixture(scope="module")
def undisturbed(default_here, tmp_path_factory):
    """The same training on this machine, left alone."""
    folder = clone(default_here, tmp_path_factory.mktemp("undisturbed") / "study")
    shutil.copy(os.path.join(os.path.dirname(__file__), "faults.yaml"), folder)
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", LOG, *OVERLAY]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return folder


@pytest.fixture
def study(default_here, image, slurm, apptainer, tmp_path):
    """The default study with all but its training done, on a disk of its own for checkpoints."""
    folder = clone(default_here, tmp_path / "study")
    shutil.copy(os.path.join(os.path.dirname(__file__), "faults.yaml"), folder)
    give_image(folder, image)
    shutil.rmtree(folder / "results" / "runs")
    study = ClusterStudy(folder, slurm, apptainer)
    (folder / "checkpoints").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", folder / "checkpoints"], check=True)
    yield study
    for row in slurm.squeue():
        slurm.run("scancel", row["id"])
    subprocess.run(["umount", "--lazy", folder / "checkpoints"], check=True)


@pytest.mark.timeout(1200)
def test_a_training_survives_every_fault(study, undisturbed, capsys):
    slurm, table = study.slurm, []
    study.edit("profiles/slurm/config.yaml", "mem_mb: 24000 * attempt", "mem_mb: 2500 * attempt")
    study.edit("profiles/slurm/config.yaml", "runtime: 720", 'runtime: "1 if attempt == 2 else 60"')
    study.edit("profiles/slurm/config.yaml", "retries: 3", "retries: 9")
    snakemake = study.start(LOG, *OVERLAY)

    def attempt_began(number):
        wait_for(lambda: len(begins(study)) >= number or snakemake.poll() is not None, 150, f"attempt {number} begins")
        assert len(begins(study)) >= number, study.log()[-5000:]

    def attempt_saved(number):
        attempt_began(number)
        start = begins(study)[number - 1]["step"]
        wait_for(lambda: last_saved(study) > start, 150, f"attempt {number} has saved a checkpoint after step {start}")

    def attempt_computes_past_its_checkpoint(number):
        attempt_saved(number)
        wait_for(lambda: steps_of_attempt(study, number)[-1] > last_saved(study), 60, "a step past the checkpoint")

    def job(number):
        return begins(study)[number - 1]["job"]

    # 1: it asks for too little memory; the next attempt asks for more
    # 2: a walltime that is too short
    attempt_began(3)
    # 3: SIGTERM, as Slurm sends it before a walltime
    attempt_saved(3)
    slurm.run("scancel", "--signal=TERM", job(3))
    # 4: the node is lost
    attempt_computes_past_its_checkpoint(4)
    (node,) = [row["nodes"] for row in slurm.squeue() if row["id"] == job(4)]
    slurm.kill_node(node)
    # 5: somebody cancels the job
    attempt_saved(5)
    slurm.start_node(node)
    slurm.run("scancel", job(5))
    # 6: the controller is restarted, and the job goes on; then the disk is full
    attempt_saved(6)
    slurm.restart_controller()
    before = last_saved(study)
    wait_for(lambda: last_saved(study) > before, 60, "the job goes on under the new controller")
    filler = study.folder / "checkpoints" / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True)  # until the disk is full
    wait_for(lambda: slurm.state(job(6)) not in ("RUNNING", "COMPLETING"), 60, "the full disk ends the attempt")
    log = next(study.folder.glob("logs/train/*.log")).read_text()
    filler.unlink()
    assert "error: checkpoints/" in log
    assert "no space left on the disk" in log
    # 7: Snakemake is killed, the job runs on; `make resume`
    attempt_computes_past_its_checkpoint(7)
    study.kill(snakemake)
    assert slurm.state(job(7)) == "RUNNING"
    printed = study.resume(LOG, *OVERLAY)
    assert f"left over from a run that was killed: {job(7)} (running)" in printed

    assert study.read(LOG) == (undisturbed / LOG).read_text(), "one curve, equal to the undisturbed one"
    assert (study.folder / ADAPTER).read_bytes() == (undisturbed / ADAPTER).read_bytes()

    faults = [
        "memory exceeded",
        "walltime too short",
        "SIGTERM",
        "node lost",
        "cancelled by hand",
        "controller restarted, then disk full",
        "Snakemake killed -9, make resume",
        "-",
    ]
    jobs = study.jobs("train")
    assert len(jobs) == len(faults)
    rows = events(study)
    numbers = {row["job"]: number for number, row in enumerate(begins(study), 1)}
    for fault, slurm_job in zip(faults, jobs, strict=True):
        number = numbers.get(slurm_job["JobID"])
        steps = steps_of_attempt(study, number) if number else []
        later = [row["step"] for row in begins(study) if number and row["at"] > begins(study)[number - 1]["at"]]
        repeated = max(0, steps[-1] - later[0]) if steps and later else 0
        table.append((fault, slurm_job["State"].split()[0], slurm_job["ReqMem"], steps, repeated))
        assert repeated <= SAVE_STEPS, fault
    with capsys.disabled():
        print(f"\n{'fault':<40}{'state':<16}{'asked':<9}{'steps':<10}repeated")
        for fault, state, memory, steps, repeated in table:
            span = f"{steps[0]}-{steps[-1]}" if steps else "-"
            print(f"{fault:<40}{state:<16}{memory:<9}{span:<10}{repeated}")
    asked = [int(slurm_job["ReqMem"].rstrip("M")) for slurm_job in jobs[:2]]
    assert asked[1] > asked[0], "after its memory was exceeded, a job asks for more"
    # no file ever had two writers: the jobs' times do not overlap
    assert all(first["End"] <= second["Start"] for first, second in itertools.pairwise(jobs))
    assert [row["event"] for row in rows if row["event"] not in ("begin", "step")][-1] == "done"


def test_no_call_that_was_answered_is_asked_again(default_here, image, slurm, apptainer, tmp_path, capsys):
    study = ClusterStudy(clone(default_here, tmp_path / "study"), slurm, apptainer)
    give_image(study.folder, image)
    answers = "results/answers/smollm2-135m-instruct/base/haldrune.rag.jsonl"
    expected = study.read(answers)
    (study.folder / answers).unlink()
    for folder in study.folder.glob("store/llm/transformers-*"):
        shutil.rmtree(folder)

    def calls():
        segments = study.folder.glob("store/llm/transformers-*/*.jsonl")
        return [json.loads(line)["key"] for segment in segments for line in segment.read_text().splitlines()]

    snakemake = study.start(answers)
    wait_for(calls, 120, "the first calls are answered")
    study.kill(snakemake)
    answered = calls()
    printed = study.resume(answers)
    assert "left over from a run that was killed" in printed
    after = calls()
    assert set(answered) < set(after), "there was something left to ask"
    assert len(set(after)) == len(after), "every call is answered once"
    assert study.read(answers) == expected
    with capsys.disabled():
        print(f"\n{len(answered)} of {len(after)} calls were answered before the kill, none of them was asked again")
