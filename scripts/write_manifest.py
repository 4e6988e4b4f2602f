"""Write down what a study's results were made with: the code's revision, the images or the environment, the locks.

    python scripts/write_manifest.py --image containers/cpu.sif … --lock envs/cpu.lock … --out results/manifest.json

$TUNEPROOF_DEPLOYMENT says how the jobs were run (apptainer, conda, or in the environment of whoever started them) and
$TUNEPROOF_REVISION of which commit: the run's main process has set both. An image's digest is computed from the file
itself; what it was made of is what its build has written beside it.
"""

import argparse
import os
from pathlib import Path

from tuneproof.errors import report_errors


@report_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", nargs="*", default=[], help="images that the study's rules name")
    parser.add_argument("--lock", nargs="+", required=True, type=Path, help="locked environments")
    parser.add_argument("--out", required=True, type=Path, help="manifest to write (JSON)")
    args = parser.parse_args()

    from tuneproof.records import file_sha256, read_json, write_json

    deployment = os.environ.get("TUNEPROOF_DEPLOYMENT", "the caller's environment")
    images = {}
    for name in args.image if deployment == "apptainer" else []:
        image, record = Path(name), Path(f"{name}.json")
        images[name] = {
            **(read_json(record) if record.exists() else {}),
            "sha256": file_sha256(image) if image.is_file() else None,  # of a registry's image the name is its digest
        }
    write_json(
        args.out,
        {
            "revision": os.environ.get("TUNEPROOF_REVISION") or None,
            "deployment": deployment,
            "images": images,
            "locks": {lock.as_posix(): file_sha256(lock) for lock in args.lock},
        },
    )


if __name__ == "__main__":
    main()
