"""Build a container image: wheels on this machine first, then an image that needs no network to install them.

    python scripts/build_image.py cpu                  # from the digest that containers/cpu.def names
    python scripts/build_image.py cpu --base debian    # from Debian packages: no registry of images is needed
    TORCH="torch==2.13.0 --index-url …" python scripts/build_image.py cpu

Wheels are checked against envs/IMAGE.lock and kept in $TUNEPROOF_CACHE (default ~/.cache/tuneproof)/wheels-IMAGE, so
that a second build downloads none. Writes IMAGE.sif, IMAGE.sif.json (what it was made of) and IMAGE.sif.log.
"""

import argparse
import hashlib
import json
import os
import platform
import queue
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tuneproof.errors import InputError, report_errors
from tuneproof.fetch.weights import cache_folder
from tuneproof.records import file_sha256

ROOT = Path(__file__).resolve().parents[1]
# GB that a build needs: the unpacked image (cpu 2.4, gpu 7.7, judge 10.3, measured) and the file made of it
NEEDS_GB = {"cpu": 4, "gpu": 14, "judge": 17}
# every kernel mounts gzip. For cpu: 0.83 GB after 23 CPU seconds; zstd at level 1: 0.80 GB after 8; lz4: 1.06 GB
SQUASH = "-comp gzip -Xcompression-level 1"
HEARTBEAT_S = 15
# what the image says of itself, asked with its own python
ASK = """
import json, pathlib, platform, subprocess, torch
package = subprocess.run(["dpkg-query", "-Wf", "${Version}", "python3.11"], capture_output=True, text=True).stdout
date = pathlib.Path("/opt/tuneproof/archive_date").read_text().removeprefix("Date:").strip()
print(json.dumps({"debian": pathlib.Path("/etc/debian_version").read_text().strip(), "archive_date": date or None,
    "python": platform.python_version(), "python_package": package or None, "torch": torch.__version__}))
"""


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", help=", ".join(NEEDS_GB))
    parser.add_argument("--base", default="docker", help="docker (default): the digest in the definition; debian")
    parser.add_argument("--out", type=Path, help="the image to write (default: containers/IMAGE.sif)")
    parser.add_argument("--sandbox", action="store_true", help="a folder (IMAGE.sandbox) instead of a file")
    parser.add_argument("--mirror", help="Debian's archive (default: the one that apt uses here)")
    args = parser.parse_args()

    started = time.monotonic()
    check(args.image, args.base)
    definition, lock = ROOT / "containers" / f"{args.image}.def", ROOT / "envs" / f"{args.image}.lock"
    out = args.out or ROOT / "containers" / f"{args.image}.{'sandbox' if args.sandbox else 'sif'}"
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(args.image, out)
    build_arguments = [f"revision={revision([definition, lock])}"]
    if args.base == "debian":
        build_arguments += ["bootstrap=debootstrap", f"mirror={args.mirror or debian_mirror()}"]

    with Path(f"{out}.log").open("w", encoding="utf-8") as log:

        def say(text: str) -> None:
            print(f"{time.monotonic() - started:5.0f} s  {text}", flush=True)
            print(text, file=log, flush=True)

        def follow(command: Sequence[str], what: str) -> None:
            run(command, what, log, say)

        wheels = gather_wheels(args.image, lock, say, follow)
        gathered = time.monotonic()
        say(f"building {out.name} on {'Debian packages' if args.base == 'debian' else 'the image of the definition'}")
        partial = out.with_name(f"{out.name}.partial")
        command = ["apptainer", "build", "--force", "--bind", f"{wheels}:/srv"]
        command += ["--sandbox"] if args.sandbox else ["--mksquashfs-args", f"{SQUASH} -processors {os.cpu_count()}"]
        for argument in build_arguments:
            command += ["--build-arg", argument]
        try:
            follow([*command, str(partial), str(definition)], "apptainer build")
            facts = ask(partial)
            if args.sandbox:
                remove(out)
            partial.replace(out)
        finally:
            remove(partial)
        built = time.monotonic()
        say("writing down what it was made of")
        record = describe(args.image, args.base, out, definition, lock, facts)
        record["seconds"] = {"wheels": round(gathered - started), "image": round(built - gathered)}
        Path(f"{out}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        say(f"{out}: {record['bytes'] / 1e9:.2f} GB, torch {facts['torch']}; details in {out.name}.json")


def check(image: str, base: str) -> None:
    """Say in one sentence what is missing before anything is downloaded."""
    if image not in NEEDS_GB:
        raise InputError(f"image {image!r} is not known, expected one of: {', '.join(NEEDS_GB)}")
    if base not in ("docker", "debian"):
        raise InputError(f"--base {base!r} is not known, expected docker or debian")
    if not shutil.which("apptainer"):
        raise InputError("apptainer is not on PATH; install it, or use envs/*.yaml with conda where there is none")
    if base == "debian" and not shutil.which("debootstrap"):
        raise InputError("--base debian needs debootstrap, which is not on PATH (Debian package: debootstrap)")
    if base == "debian" and os.geteuid() != 0:
        raise InputError("--base debian needs root, because debootstrap does; without it use --base docker")
    if sys.version_info[:2] != (3, 11):
        raise InputError(f"the images hold python 3.11 and so must this one, to choose wheels; it is {sys.version}")


def check_space(image: str, out: Path) -> None:
    """The unpacked image stands in Apptainer's temporary folder, the finished one in the folder of `out`."""
    temporary = Path(os.environ.get("APPTAINER_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    for folder in {temporary, out.parent}:
        free = shutil.disk_usage(folder).free / 1e9
        if free < NEEDS_GB[image]:
            raise InputError(
                f"{folder} has {free:.1f} GB free, the {image} image needs {NEEDS_GB[image]} GB there"
                f"{'; APPTAINER_TMPDIR names another folder' if folder == temporary else ''}"
            )


def debian_mirror() -> str:
    """Where apt on this machine gets Debian from."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        found = []
    if not found:
        raise InputError("apt on this machine knows no archive of Debian; name one with --mirror")
    return found[0]


def gather_wheels(image: str, lock: Path, say, follow) -> Path:
    """Return a folder with the wheels of the lock and their digests (wheels.lock), downloaded if need be.

    What comes as source is built here, so its digest is not the lock's: wheels.lock is written after the check.
    """
    text = lock.read_text(encoding="utf-8")
    # torch stands in the lock where its hashes are the same everywhere; its CPU build has hashes of its own
    torch = "" if re.search(r"^torch==", text, re.MULTILINE) else os.environ.get("TORCH", "torch==2.13.0")
    key = "# " + hashlib.sha256(f"{text}\n{torch}".encode()).hexdigest()
    folder = cache_folder().absolute() / f"wheels-{image}"
    kept = folder / "wheels.lock"
    if kept.exists() and kept.read_text(encoding="utf-8").startswith(key):
        say(f"wheels: all in {folder}")
        return folder
    say(f"wheels: downloading into {folder}")
    partial = folder.with_name(f"{folder.name}.partial")
    remove(partial)
    partial.mkdir(parents=True)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--progress-bar", "off", "-w", str(partial)]
    if torch:
        follow([*wheel, *shlex.split(torch)], "the download of torch")
        name = next(partial.glob("torch-*")).name
        if image == "cpu" and platform.machine() == "x86_64" and "+cpu" not in name:
            raise InputError(f'{name} is not a CPU build; name its index: TORCH="torch==2.13.0 --index-url …"')
    follow([*wheel, "--require-hashes", "-r", str(lock)], "the download of wheels")
    lines = [key]
    for path in sorted(partial.glob("*.whl")):
        package, version, *_ = path.name.split("-")
        lines.append(f"{package}=={version} --hash=sha256:{file_sha256(path)}")
    (partial / "wheels.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
    remove(folder)
    partial.rename(folder)
    say(f"wheels: {len(lines) - 1}, {size(folder) / 1e9:.2f} GB")
    return folder


def run(command: Sequence[str], what: str, log, say) -> None:
    """Run a command: its whole output into the log; headlines (`== …`) and a sign of life also to the terminal."""
    lines: queue.Queue[str | None] = queue.Queue()
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

        def read() -> None:
            assert process.stdout
            for line in process.stdout:
                lines.put(re.sub(r"\x1b\[\d+m", "", line).rstrip())  # without colours
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        told = time.monotonic()
        while True:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line:
                print(line, file=log, flush=True)
                last = last if line.startswith("+") else line.removeprefix("INFO:").strip()
            if headline := re.match(r"== (.*)|INFO: +((Starting|Running|Creating).*)", line):
                say("  " + (headline[1] or headline[2]))
                told = time.monotonic()
            elif last and time.monotonic() - told > HEARTBEAT_S:
                say(f"    … {last.removeprefix('== ')[:90]}")
                told = time.monotonic()
    if process.returncode:
        if "no space left" in Path(log.name).read_text(encoding="utf-8").lower():
            raise InputError(f"{what}: no space left on the disk; APPTAINER_TMPDIR names another temporary folder")
        raise InputError(f"{what} ended with exit status {process.returncode}: {last} (all of it: {log.name})")


def ask(image: Path) -> dict[str, str | None]:
    """What the image says of itself: versions of Debian, python and torch."""
    command = ["apptainer", "exec", "--cleanenv", "--no-home", "--pwd", "/", str(image), "python", "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"the image was built but does not run: {done.stderr.strip().splitlines()[-1]}")
    facts: dict[str, str | None] = json.loads(done.stdout)
    return facts


def describe(image: str, base: str, out: Path, definition: Path, lock: Path, facts: dict) -> dict:
    """What the image is and what it was made of."""
    source = re.search(r"^From: (\S+)", definition.read_text(encoding="utf-8"), re.MULTILINE)
    assert source
    apptainer = subprocess.run(["apptainer", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "image": image,
        "file": out.name,
        "sha256": file_sha256(out) if out.is_file() else None,
        "bytes": size(out),
        "base": {"kind": base, "from": source[1] if base == "docker" else None, **facts},
        "definition_sha256": file_sha256(definition),
        "lock_sha256": file_sha256(lock),
        "revision": revision([definition, lock]),
        "apptainer": apptainer.split()[-1],
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def revision(files: Sequence[Path]) -> str:
    """The commit, with `-dirty` where one of these files is not as committed; an image depends on no other."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", *map(str, files)]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("-dirty" if changed else "")


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
