"""Images, locks and conda environments: what a definition must have, and that all of them install the same."""

import ast
import errno
import hashlib
import json
import os
import re
import subprocess
from collections import namedtuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import build_image
from tuneproof.errors import InputError

IMAGES = ["cpu", "gpu", "judge"]
SECTIONS = ["arguments", "labels", "help", "environment", "post", "test", "runscript"]
LABELS = ["title", "description", "version", "licenses", "revision"]
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
LINUX |= {"python_version": "3.11", "python_full_version": "3.11.9", "implementation_name": "cpython"}
LINUX |= {"platform_python_implementation": "CPython"}
# where a distribution is imported under another name
IMPORTS = {
    "bert-score": "bert_score",
    "faiss-cpu": "faiss",
    "faiss-gpu": "faiss",
    "huggingface-hub": "huggingface_hub",
    "liger-kernel": "liger_kernel",
    "lxml-html-clean": "lxml_html_clean",
    "openvino-genai": "openvino_genai",
    "rouge-score": "rouge_score",
    "scikit-learn": "sklearn",
    "semantic-text-splitter": "semantic_text_splitter",
    "snakemake-executor-plugin-slurm": "snakemake_executor_plugin_slurm",
    "tensorboardx": "tensorboardX",
    "vl-convert-python": "vl_convert",
}


def parse(definition):
    """The header's keys and the sections of an Apptainer definition."""
    head, *parts = re.split(r"^%", definition.read_text(encoding="utf-8"), flags=re.MULTILINE)
    header = dict(re.findall(r"^(\w+): (.+)$", head, re.MULTILINE))
    return header, {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def requirements(path):
    """The requirements of an .in file, by normalised name."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def locked(path):
    """What a lock installs on Linux: versions and hashes by normalised name."""
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)):
        requirement, *hashes = entry.replace("\\\n", "").strip().split("--hash=")
        parsed = Requirement(requirement)
        if parsed.marker is None or parsed.marker.evaluate(LINUX):
            (pin,) = parsed.specifier
            assert pin.operator == "==" and hashes, f"{path.name}: {requirement}"
            found[canonicalize_name(parsed.name)] = pin.version, hashes
    return found


# --- definitions ---


@pytest.mark.parametrize("image", IMAGES)
def test_a_definition_has_what_both_bases_need(root, image):
    header, sections = parse(root / "containers" / f"{image}.def")
    assert header["Bootstrap"] == "{{ bootstrap }}" and header["MirrorURL"] == "{{ mirror }}"
    assert header["OSVersion"] == "bookworm"
    assert {"python3", "python3-venv", "procps"} <= set(header["Include"].split())
    assert list(sections) == SECTIONS
    assert re.findall(r"^    org\.opencontainers\.image\.(\w+) \S", sections["labels"], re.MULTILINE) == LABELS
    assert "/opt/tuneproof/bin:$PATH" in sections["environment"] and "PYTHONNOUSERSITE" in sections["environment"]
    declared = re.findall(r"^    (\w+)=", sections["arguments"], re.MULTILINE)
    used = re.findall(r"{{ (\w+) }}", (root / "containers" / f"{image}.def").read_text(encoding="utf-8"))
    assert set(used) == set(declared)


def test_all_definitions_start_from_one_digest(root):
    bases = {parse(root / "containers" / f"{image}.def")[0]["From"] for image in IMAGES}
    assert len(bases) == 1 and re.fullmatch(r"python@sha256:[0-9a-f]{64}", bases.pop())


@pytest.mark.parametrize("image", IMAGES)
def test_packages_come_locked_and_without_a_network(root, image):
    text = (root / "containers" / f"{image}.def").read_text(encoding="utf-8")
    assert "://" not in text, "a definition names no registry and no mirror"
    installs = re.findall(r"pip install (?:.*\\\n)*.*", text)
    assert len(installs) == 1
    assert {"--no-index", "--no-deps", "--require-hashes"} <= set(installs[0].split())


@pytest.mark.parametrize("image", IMAGES)
def test_an_images_test_imports_all_that_it_was_made_for(root, image):
    _, sections = parse(root / "containers" / f"{image}.def")
    (program,) = re.findall(r"<<'END'\n(.*?)\nEND\n", sections["test"], re.DOTALL)
    tree = ast.parse(program)
    imported = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    wanted = {IMPORTS.get(name, name) for name in requirements(root / "envs" / f"{image}.in")}
    assert wanted <= imported, f"not imported: {wanted - imported}"
    assert any(isinstance(node, ast.Assert) for node in tree.body), "it computes something and looks at the result"


# --- locks ---


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_is_in_step_with_what_was_asked(root, image):
    lock = locked(root / "envs" / f"{image}.lock")
    for name, requirement in requirements(root / "envs" / f"{image}.in").items():
        assert name in lock, f"{name} is not locked: make lock"
        assert requirement.specifier.contains(lock[name][0]), f"{requirement}, but {lock[name][0]} is locked: make lock"


def test_torch_is_apart_on_a_cpu_and_locked_with_cuda_elsewhere(root):
    locks = {image: locked(root / "envs" / f"{image}.lock") for image in IMAGES}
    assert "torch" not in locks["cpu"]
    assert {"sympy", "networkx", "setuptools", "jinja2", "fsspec"} <= set(locks["cpu"]), "what torch needs is locked"
    for image in ("gpu", "judge"):
        text = (root / "envs" / f"{image}.lock").read_text(encoding="utf-8")
        assert "--python-platform x86_64-manylinux_2_28" in text.splitlines()[1], "resolved for Linux"
        assert {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-cublas"} <= set(locks[image])
    assert {"nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"} <= set(locks["gpu"]), "what faiss-gpu needs"


def test_cpu_and_gpu_agree_on_what_decides_a_run(root):
    cpu, gpu = (locked(root / "envs" / f"{image}.lock") for image in ("cpu", "gpu"))
    for name in "accelerate bitsandbytes datasets deepspeed numpy peft tokenizers transformers trl".split():
        assert cpu[name] == gpu[name], name


# --- conda ---


@pytest.mark.parametrize("image", IMAGES)
def test_conda_installs_the_same_lock(root, image):
    environment = yaml.safe_load((root / "envs" / f"{image}.yaml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert {"python=3.11", "pip"} <= set(environment["dependencies"])
    script = (root / "envs" / f"{image}.post-deploy.sh").read_text(encoding="utf-8")
    digest = hashlib.sha256((root / "envs" / f"{image}.lock").read_bytes()).hexdigest()
    assert f"\nlock=envs/{image}.lock\nlock_sha256={digest}\n" in script, "make lock"
    assert '--no-deps --require-hashes -r "$lock"' in script
    torch = re.search(r"^TORCH \?= (.*)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert ("${TORCH:-" + torch + "}" in script) is (image == "cpu")


def deploy(root, image, folder):
    """Run the script as Snakemake does, with a python that only writes down what it was told."""
    python = folder / "prefix" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "CONDA_PREFIX": str(folder / "prefix")}
    command = ["bash", root / "envs" / f"{image}.post-deploy.sh"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image", IMAGES)
def test_post_deploy_installs_into_the_environment_it_is_given(root, image, tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / f"{image}.lock").write_bytes((root / "envs" / f"{image}.lock").read_bytes())
    done = deploy(root, image, tmp_path)
    assert done.returncode == 0, done.stderr
    calls = done.stdout.splitlines()
    assert calls[-1].endswith(f"--no-deps --require-hashes -r envs/{image}.lock")
    assert [call.split()[-1] for call in calls[:-1]] == (["torch==2.13.0"] if image == "cpu" else [])


def test_post_deploy_refuses_another_lock(root, tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "cpu.lock").write_text("torch==1.0\n", encoding="utf-8")
    done = deploy(root, "cpu", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "envs/cpu.lock is missing or not the one" in done.stderr
    assert done.stderr.count("\n") == 1


# --- the build command ---


def tools(folder, *names):
    """A PATH with nothing on it but these."""
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


@pytest.mark.parametrize(
    ("arguments", "on_path", "said"),
    [
        (["tpu"], ["apptainer"], "image 'tpu' is not known, expected one of: cpu, gpu, judge"),
        (["cpu", "--base", "fedora"], ["apptainer"], "--base 'fedora' is not known, expected docker or debian"),
        (["cpu"], [], "apptainer is not on PATH"),
        (["cpu", "--base", "debian"], ["apptainer"], "--base debian needs debootstrap"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(run_script, tmp_path, arguments, on_path, said):
    done = run_script("build_image", *arguments, "--out", tmp_path / "x.sif", env=tools(tmp_path, *on_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("x.sif*"))


def test_no_archive_of_debian(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt on this machine knows no archive of Debian; name one with --mirror"):
        build_image.debian_mirror()


def test_a_disk_that_is_too_small_is_seen_before_the_download(monkeypatch, tmp_path):
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(1e9))
    with pytest.raises(InputError, match=r"has 1\.0 GB free, the gpu image needs \d+ GB there; APPTAINER_TMPDIR"):
        build_image.check_space("gpu", tmp_path / "gpu.sif")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo FATAL: no loop devices; exit 255", "the build ended with exit status 255: FATAL: no loop devices"),
        (f"echo write: {os.strerror(errno.ENOSPC)}; exit 1", "the build: no space left on the disk"),
    ],
)
def test_a_failed_build_says_its_last_line(tmp_path, command, said):
    with (tmp_path / "log").open("w", encoding="utf-8") as log, pytest.raises(InputError, match=re.escape(said)):
        build_image.run(["sh", "-c", command], "the build", log, print)


def test_headlines_reach_the_terminal_and_everything_the_log(tmp_path):
    said = []
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        build_image.run(
            ["sh", "-c", "echo == installing; echo 'INFO:    Creating SIF'; echo x"], "it", log, said.append
        )
    assert said == ["  installing", "  Creating SIF"]
    assert (tmp_path / "log").read_text(encoding="utf-8").splitlines() == [
        "== installing",
        "INFO:    Creating SIF",
        "x",
    ]


def test_wheels_are_gathered_once_and_again_when_the_lock_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEPROOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH", "torch==2.13.0 --index-url X")
    calls = []

    def pip(command, what):
        calls.append(what)
        folder = command[command.index("-w") + 1]
        wheel = (
            "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl" if "torch==2.13.0" in command else "a_b-1-py3-none-any.whl"
        )
        with open(f"{folder}/{wheel}", "w", encoding="utf-8") as file:
            file.write("wheel")

    lock = tmp_path / "cpu.lock"
    lock.write_text("a-b==1 --hash=sha256:0\n", encoding="utf-8")
    folder = build_image.gather_wheels("cpu", lock, print, pip)
    assert folder == tmp_path / "cache" / "wheels-cpu"
    digest = hashlib.sha256(b"wheel").hexdigest()
    key, *lines = (folder / "wheels.lock").read_text(encoding="utf-8").splitlines()
    assert lines == [f"a_b==1 --hash=sha256:{digest}", f"torch==2.13.0+cpu --hash=sha256:{digest}"]
    assert calls == ["the download of torch", "the download of wheels"]

    build_image.gather_wheels("cpu", lock, print, pip)
    assert len(calls) == 2, "a second build downloads nothing"
    lock.write_text("a-b==1 --hash=sha256:1\n", encoding="utf-8")
    build_image.gather_wheels("cpu", lock, print, pip)
    assert len(calls) == 4
    assert (folder / "wheels.lock").read_text(encoding="utf-8").splitlines()[0] != key
    lock.write_text("torch==2.13.0 --hash=sha256:1\n", encoding="utf-8")
    build_image.gather_wheels("gpu", lock, print, pip)
    assert len(calls) == 5, "a lock that names torch needs no torch apart"


def test_a_cuda_torch_is_not_built_into_the_cpu_image(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEPROOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def pip(command, what):
        with open(command[command.index("-w") + 1] + "/torch-2.13.0-cp311-cp311-linux_x86_64.whl", "w") as file:
            file.write("wheel")

    (tmp_path / "cpu.lock").write_text("a==1\n", encoding="utf-8")
    with pytest.raises(InputError, match="is not a CPU build; name its index: TORCH="):
        build_image.gather_wheels("cpu", tmp_path / "cpu.lock", print, pip)


def test_an_image_that_was_built_says_what_it_was_made_of(root):
    record = root / "containers" / "cpu.sif.json"
    if not record.exists():
        pytest.skip(f"{record} is not there: `make image` builds it")
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found["image"] == "cpu" and found["bytes"] == (root / "containers" / "cpu.sif").stat().st_size
    assert found["base"]["torch"].startswith("2.13.0") and found["base"]["python"].startswith("3.11.")
    assert {"sha256", "definition_sha256", "lock_sha256", "revision", "apptainer", "built_at"} <= set(found)
