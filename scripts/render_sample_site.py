"""Render the sample website of an invented company, and the list of facts that stand on its pages.

    python scripts/render_sample_site.py --source sample_site --site resources/sites/haldrune/site \
        --facts resources/sites/haldrune/facts.jsonl

The default study crawls this site, so that it needs no network and every answer can be checked: no model
knows these facts from elsewhere, and facts.jsonl tells on which page each of them stands. The same source
gives the same bytes.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from tuneproof.errors import InputError, report_errors


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=Path("sample_site"), help="folder of facts.yaml and templates/")
    parser.add_argument("--site", type=Path, required=True, help="website to write; the folder is replaced")
    parser.add_argument("--facts", type=Path, required=True, help="facts to write, one JSON object a line")
    return parser.parse_args()


@report_errors
def main() -> None:
    """Render beside the target and rename, so that a killed run leaves no half of a website."""
    args = parse_args()
    import jinja2
    import yaml

    from tuneproof.corpus.sample_site import render

    unfinished = args.site.with_name(args.site.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        facts = render(args.source, unfinished)
    except (ValueError, yaml.YAMLError, jinja2.TemplateError) as error:
        shutil.rmtree(unfinished)
        raise InputError(f"{args.source}: {error}") from None
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if args.site.exists():
        shutil.rmtree(args.site)  # a folder with files in it cannot be renamed over
    os.replace(unfinished, args.site)

    args.facts.parent.mkdir(parents=True, exist_ok=True)
    rows = args.facts.with_name(args.facts.name + ".tmp")
    rows.write_text("".join(json.dumps(fact, ensure_ascii=False) + "\n" for fact in facts), encoding="utf-8")
    os.replace(rows, args.facts)
    print(f"{len({fact['path'] for fact in facts})} pages, {len(facts)} facts: {args.site}")


if __name__ == "__main__":
    main()
