"""Read a GGUF once into the folder that OpenVINO loads: every job, and every group of calls, begins with loading.

Reading GGUF takes 13 s of a processor's time for the default writer, of which 6 s are its tokenizer; loading what is
written here takes 3 s, and gives the same replies to the last bit.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

from tuneproof.errors import InputError
from tuneproof.fetch.weights import read_lock, weights_sha256
from tuneproof.records import file_sha256, write_json


def prepare_llm(lock: Path, out: Path) -> None:
    """Read the GGUF that `lock` names and write `out` (a lock too) with OpenVINO's model and tokenizer beside it.

    Raises InputError where the model is no GGUF.
    """
    import openvino_genai

    content = read_lock(lock)
    if content["format"] != "gguf":
        raise InputError(f"{lock}: engine openvino reads GGUF, but {content['model']} has format {content['format']!r}")
    name = content["files"][0]["name"]
    out.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent.parent, prefix=".openvino.") as temporary:
        folder = Path(temporary, "whole")
        folder.mkdir()
        gguf = folder / name  # OpenVINO writes beside what it reads
        gguf.symlink_to((lock.parent / name).resolve())
        scheduler = openvino_genai.SchedulerConfig()
        openvino_genai.ContinuousBatchingPipeline(str(gguf), scheduler, "CPU", {"enable_save_ov_model": True})
        openvino_genai.Tokenizer(str(gguf), enable_save_ov_model=True)
        gguf.unlink()
        shutil.rmtree(out.parent, ignore_errors=True)
        folder.rename(out.parent)
    files = [{"name": p.name, "sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(out.parent.iterdir())]
    made = {"format": "openvino", "openvino_genai": importlib.metadata.version("openvino-genai")}
    write_json(out, {**content, **made, "made_of_sha256": weights_sha256(content), "files": files})
