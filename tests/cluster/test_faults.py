"""One training meets every fault that a cluster has, one after the other, and ends as if nothing had happened."""

import itertools
import json
import shutil
import subprocess

import pytest
from cluster.conftest import ClusterStudy, wait_for
from copies import clone, give_image

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RUN = "results/runs/smollm2-135m-instruct/lora/haldrune/seed1"
LOG = f"{RUN}/train_log.jsonl"
ADAPTER = f"{RUN}/adapter/adapter_model.safetensors"
OVERLAY = ("--configfile", "often.yaml")
SAVE_STEPS = 3


def events(study):
    """The training's journal so far: in its checkpoints' folder, in the end with the run."""
    files = [*study.folder.glob("checkpoints/*/journal.jsonl"), study.folder / RUN / "journal.jsonl"]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def begins(study):
    return [row for row in events(study) if row["event"] == "begin"]


def steps_of(study, number):
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


@pytest.fixture
def study(default_here, image, slurm, small_disk, apptainer, tmp_path):
    """The default study with all done but its training, and with a small disk of its own for checkpoints."""
    folder = clone(default_here, tmp_path / "study")
    (folder / "often.yaml").write_text(f"methods: {{lora: {{save_steps: {SAVE_STEPS}}}}}\n")
    give_image(folder, image)
    shutil.rmtree(folder / "results" / "runs")
    study = ClusterStudy(folder, slurm, apptainer)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "checkpoints").symlink_to(small_disk)
    yield study
    for row in slurm.squeue():
        slurm.run("scancel", row["id"])


@pytest.mark.timeout(1500)
def test_one_training_survives_every_fault_and_short_walltimes(study, small_disk, default_here, capsys):
    slurm, profile = study.slurm, "profiles/slurm/config.yaml"
    study.edit(profile, "mem_mb: 24000 * attempt", "mem_mb: 1400 * attempt")
    study.edit(profile, "retries: 3", "retries: 9")
    snakemake = study.start(LOG, *OVERLAY)

    def began(number):
        wait_for(lambda: len(begins(study)) >= number or snakemake.poll() is not None, 180, f"attempt {number} begins")
        assert len(begins(study)) >= number, study.log()[-5000:]
        return begins(study)[number - 1]

    def saved(number):
        start = began(number)["step"]
        wait_for(lambda: last_saved(study) > start, 180, f"attempt {number} saves a checkpoint after step {start}")

    def is_past_a_checkpoint(number):
        saved(number)
        wait_for(lambda: steps_of(study, number)[-1] > last_saved(study), 60, "a step past the checkpoint")

    faults = {1: "memory exceeded"}  # 1,400 MB are not enough; the second attempt asks for twice as much

    faults[2] = "SIGTERM, as before a walltime"
    saved(2)
    slurm.run("scancel", "--signal=TERM", began(2)["job"])

    faults[3] = "node lost"
    is_past_a_checkpoint(3)
    (node,) = [row["nodes"] for row in slurm.squeue() if row["id"] == began(3)["job"]]
    slurm.kill_node(node)

    faults[4] = "job cancelled by hand"
    saved(4)
    slurm.start_node(node)
    slurm.run("scancel", began(4)["job"])

    faults[5] = "slurmctld restarted; then the disk is full"
    saved(5)
    slurm.restart_controller()
    before = last_saved(study)
    wait_for(lambda: last_saved(study) > before, 60, "the job goes on under the new controller")
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True)  # until the disk is full
    wait_for(lambda: slurm.state(began(5)["job"]) not in ("RUNNING", "COMPLETING"), 60, "the full disk ends the job")
    log = next(study.folder.glob("logs/train/*.log")).read_text()
    filler.unlink()
    assert "error: checkpoints/" in log
    assert "no space left on the disk" in log

    faults[6] = "Snakemake killed with -9; make resume"
    is_past_a_checkpoint(6)
    study.kill(snakemake)
    assert slurm.state(began(6)["job"]) == "RUNNING"

    # what is left, in jobs of one minute
    study.edit(profile, "mem_mb: 1400 * attempt", "mem_mb: 24000")
    study.edit(profile, """runtime: 720, slurm_extra: "'--signal=TERM@300'\"""", "runtime: 1")
    printed = study.resume(LOG, *OVERLAY)
    assert f"left over from a run that was killed: {began(6)['job']} (running)" in printed
    last = len(begins(study))
    faults |= {number: "walltime of one minute" for number in range(7, last)} | {last: "none: the rest"}
    assert last >= 7, "what is left takes one job or several, as fast as the machine is"

    assert study.read(LOG) == (default_here / LOG).read_text(), "one curve, equal to the undisturbed one"
    assert (study.folder / ADAPTER).read_bytes() == (default_here / ADAPTER).read_bytes()

    jobs = {row["JobID"]: row for row in study.jobs("")}
    table = []
    for number, fault in faults.items():
        begin = begins(study)[number - 1]
        steps = steps_of(study, number)
        resumed = begins(study)[number]["step"] if number < last else steps[-1]
        table.append((fault, jobs[begin["job"]], steps, max(0, steps[-1] - resumed) if steps else 0))
    with capsys.disabled():
        print(f"\n{'fault':<44}{'Slurm says':<14}{'asked':<8}{'steps':<10}repeated")
        for fault, job, steps, repeated in table:
            span = f"{steps[0]}-{steps[-1]}" if steps else "none"
            print(f"{fault:<44}{job['State'].split()[0]:<14}{job['ReqMem']:<8}{span:<10}{repeated}")
    assert all(repeated <= SAVE_STEPS for *_, repeated in table), "at most one checkpoint interval"
    assert int(table[1][1]["ReqMem"].rstrip("M")) == 2 * int(table[0][1]["ReqMem"].rstrip("M"))
    times = [(job["Start"], job["End"]) for _, job, *_ in table]
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(times)), "never two writers"


def test_no_call_that_was_answered_is_asked_again(default_here, image, slurm, apptainer, tmp_path, capsys):
    study = ClusterStudy(clone(default_here, tmp_path / "study"), slurm, apptainer)
    give_image(study.folder, image)
    answers = "results/answers/smollm2-135m-instruct/base/haldrune.rag.jsonl"
    expected = study.read(answers)
    (study.folder / answers).unlink()
    (study.folder / "results/answers/smollm2-135m-instruct/base/load0.json").unlink()
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
