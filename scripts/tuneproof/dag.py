"""The rules of a study as a picture: Snakemake's graph of rules, coloured by where they run, as mermaid and for dot."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from tuneproof.errors import InputError
from tuneproof.plan import API, CPU, GPU, LOGIN

Edge = tuple[str, str]

# Fill and border of each place. The fills carry dark text and stand out from a white page and from a dark one; hues
# are Okabe and Ito's, lightened.
COLOURS = {
    LOGIN: ("#F3CF73", "#8A6A00"),
    API: ("#E9B3CF", "#8F3F6B"),
    CPU: ("#A9D3F0", "#1F5F8B"),
    GPU: ("#8FD3B6", "#00684B"),
}
INK, EDGE = "#1C1F24", "#808690"
MEANING = {
    LOGIN: "login node: network, or little to do",
    API: "job that calls an API",
    CPU: "job on a CPU",
    GPU: "job on a GPU",
}


def edges_of(mermaid: str) -> list[Edge]:
    """Read the edges (rule, rule that needs it) from `snakemake --rulegraph mermaid-js`."""
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]\s*$", mermaid, re.MULTILINE))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)\s*$", mermaid, re.MULTILINE)
    if not names or not edges:
        raise InputError("snakemake --rulegraph mermaid-js: no rules in what it printed")
    return [(names[a], names[b]) for a, b in edges]


def reduced(edges: Sequence[Edge]) -> list[Edge]:
    """Leave out every edge that a longer way implies (transitive reduction): the report needs nearly all rules."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reach(rule: str) -> set[str]:
        return {rule}.union(*(reach(n) for n in after.get(rule, ())))

    ways = {rule: reach(rule) for rule in after}
    return [(a, b) for a, b in edges if not any(b in ways.get(n, ()) for n in after[a] - {b})]


def mermaid(places: Mapping[str, Sequence[str]], edges: Sequence[Edge]) -> str:
    """Draw the rules of `places` as a mermaid flowchart with a legend."""
    used = _used(places)
    lines = ["flowchart TB"]
    lines += [f'  {rule}["{_label(rule, where, "<br/>")}"]:::{_class(where[0])}' for rule, where in places.items()]
    lines += [f"  {a} --> {b}" for a, b in edges if a in places and b in places]
    lines += ["  subgraph legend[where a rule runs]"]
    lines += [f'    legend_{_class(place)}["{MEANING[place]}"]:::{_class(place)}' for place in used]
    lines += ["  end", "  style legend fill:none,stroke:none"]
    lines += [
        f"  classDef {_class(place)} fill:{COLOURS[place][0]},stroke:{COLOURS[place][1]},color:{INK}" for place in used
    ]
    return "\n".join(lines) + "\n"


def dot(places: Mapping[str, Sequence[str]], edges: Sequence[Edge]) -> str:
    """Draw the same for graphviz, on no background: it is read on a white page and on a dark one."""
    lines = [
        "digraph rules {",
        '  graph [rankdir=TB, bgcolor=transparent, nodesep=0.3, ranksep=0.26, pad=0.1, fontname="Helvetica"]',
        f'  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=12, fontcolor="{INK}", '
        'height=0.34, margin="0.12,0.04", penwidth=1.4]',
        f'  edge [color="{EDGE}", penwidth=1.3, arrowsize=0.65]',
    ]
    lines += [f'  {rule} [label="{_label(rule, w, chr(92) + "n")}", {_fill(w[0])}]' for rule, w in places.items()]
    lines += [f"  {a} -> {b}" for a, b in edges if a in places and b in places]
    # a column of its own, held together by edges that are not seen
    used = _used(places)
    keys = [f"legend_{_class(place)}" for place in used]
    lines += [f'  legend_{_class(p)} [label="{MEANING[p]}", {_fill(p)}, width=2.9, fontsize=11]' for p in used]
    lines += [f"  {a} -> {b} [style=invis]" for a, b in itertools.pairwise(keys)]
    return "\n".join([*lines, "}"]) + "\n"


def _used(places: Mapping[str, Sequence[str]]) -> list[str]:
    return [place for place in COLOURS if any(place in where for where in places.values())]


def _label(rule: str, where: Sequence[str], line_end: str) -> str:
    return rule if len(where) == 1 else f"{rule}{line_end}({' or '.join(where)})"


def _class(place: str) -> str:
    return place.split()[0].lower()


def _fill(place: str) -> str:
    fill, border = COLOURS[place]
    return f'fillcolor="{fill}", color="{border}"'
