"""Copies of the workflow in folders of their own, for tests that run it."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "resources" / "models"
_PARTS = (
    "Snakefile",
    "config.yaml",
    "rules",
    "scripts",
    "prompts",
    "report",
    "sample_site",
    "profiles",
    "studies",
    "envs",
    "containers",
    "Makefile",
)


def copy_workflow(folder: Path) -> Path:
    """Copy what a user clones, without tests and documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.sif*"))
        else:
            shutil.copy2(source, folder / part)
    return folder


def link_models(folder: Path) -> None:
    """Give a copy the models, without copying their gigabytes; students are not prepared."""
    if not (MODELS / "qwen2.5-coder-1.5b-instruct" / "openvino" / "lock.json").exists():
        pytest.skip("the models are not here: run `make setup`")
    for lock in (*MODELS.glob("*/lock.json"), *MODELS.glob("*/openvino/lock.json")):
        target = folder / lock.parent.relative_to(ROOT)
        target.mkdir(parents=True, exist_ok=True)
        for file in lock.parent.iterdir():
            if file.is_file():
                _link_or_copy(file, target / file.name)


def give_image(folder: Path, image: Path) -> None:
    """Give a copy the image, without copying its gigabyte."""
    (folder / "containers").mkdir(exist_ok=True)
    os.link(image, folder / "containers" / image.name)
    shutil.copy(f"{image}.json", folder / "containers")


def clone(source: Path, target: Path) -> Path:
    """Copy a folder in which a study has run; large files that nobody writes to are shared."""
    shutil.copytree(source, target, symlinks=True, copy_function=_link_or_copy)
    return target


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    if Path(source).suffix in (".gguf", ".bin", ".safetensors", ".sif"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
