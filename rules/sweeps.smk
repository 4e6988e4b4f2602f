"""Searches for hyper-parameters: the runs of a grid, trained by the rule `train`, compared by validation loss."""


rule tabulate_sweep:
    """Compare a sweep's variants: validation loss over seeds with intervals, the best, and who cannot be told from it."""
    input:
        sweep_logs,
    output:
        table=report(
            "results/tables/sweep.{sweep}.csv",
            caption="../report/sweep.rst",
            category="Sweeps",
            labels={"sweep": "{sweep}", "shows": "table"},
        ),
        text="results/tables/sweep.{sweep}.md",
        data="results/tables/sweep.{sweep}.json",
    log:
        "logs/tabulate_sweep/{sweep}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        sweep=section("sweeps", "sweep"),
        points=sweep_points,
    shell:
        # where the logs lie follows from sweep and variants: a large grid's paths would not fit a command line
        "exec python scripts/tabulate_sweep.py --name {wildcards.sweep} --sweep {params.sweep:q} --variants {params.points:q}"
        " --runs results/runs --table {output.table} --text {output.text} --data {output.data} 2> {log}"


rule plot_sweep:
    """Draw validation loss by variant with its intervals, and by each hyper-parameter."""
    input:
        table="results/tables/sweep.{sweep}.json",
    output:
        figure=report(
            "results/figures/sweep.{sweep}.svg",
            caption="../report/sweep_figure.rst",
            category="Sweeps",
            labels={"sweep": "{sweep}", "shows": "figure"},
        ),
        data="results/figures/sweep.{sweep}.csv",
    log:
        "logs/plot_sweep/{sweep}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    shell:
        "exec python scripts/plot_sweep.py --table {input.table} --out {output.figure} --data {output.data} 2> {log}"
