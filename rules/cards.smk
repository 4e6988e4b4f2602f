"""What there is to know of the data sets before they are used: their cards, reviews, and what tests share with training."""

# what each kind of data set is made with
PROMPTS = {
    "pairs": ["prompts/write_pairs.txt", "prompts/rephrase_question.txt"],
    "reanswered": ["prompts/answer_from_documents.txt"],
    "typed": ["prompts/annotate_type.txt"],
    "recommendation": [
        "prompts/write_requirements.txt",
        "prompts/recommend_product.txt",
    ],
    "next-steps": ["prompts/write_call.txt", "prompts/next_steps.txt"],
    "pitch": ["prompts/write_pitch.txt", "prompts/pitch.txt"],
}


def lineage(wildcards):
    """The sections of a data set and of the one that it is made of."""
    spec = MADE[wildcards.dataset]
    return [spec, MADE[spec.of]] if hasattr(spec, "of") else [spec]


def types_behind(wildcards):
    """The sections `types` that have a part in a data set: calls are made of pairs of either type."""
    spec = MADE[wildcards.dataset]
    name = getattr(spec, "of", wildcards.dataset)
    return [TYPES[name]] if name in TYPES and spec.kind != "next-steps" else []


def llms_behind(wildcards):
    """The ids of the LLMs that have a part in a data set."""
    sections = [*lineage(wildcards), *types_behind(wildcards)]
    return sorted({llm for part in sections if (llm := getattr(part, "llm", None))})


def card_encoder(wildcards):
    """The lock of the encoder whose tokenizer counts a data set's tokens; a catalogue names its own."""
    own = getattr(MADE[wildcards.dataset], "encoder", None)
    return f"resources/models/{own}/lock.json" if own else encoder_of(wildcards)


def card_models(wildcards):
    """The locks of the models that a data set was made with, those behind APIs left out."""
    local = {
        CONFIG.llms[llm].model for llm in llms_behind(wildcards) if llm not in APIS
    }
    classifiers = {types.encoder for types in types_behind(wildcards)}
    rerankers = {r for s in lineage(wildcards) if (r := getattr(s, "reranker", None))}
    return sorted(
        {
            f"resources/models/{model}/lock.json"
            for model in local | classifiers | rerankers
        }
        | {card_encoder(wildcards)}
    )


def card_types(wildcards):
    """The types of a data set's pairs, where they are told apart."""
    name = getattr(MADE[wildcards.dataset], "of", wildcards.dataset)
    return [f"results/datasets/{name}/types.jsonl"] if types_behind(wildcards) else []


def card_corpus(wildcards):
    """The section of a data set's corpus, as JSON; nothing for a catalogue."""
    corpus = corpus_of(wildcards)
    return CONFIG.corpora[corpus].model_dump_json() if corpus else ""


def audit_encoder():
    """The lock of the encoder that compares texts: the first corpus's, where there is none a catalogue set's own.

    Neither a classifier's nor that of a set that is added last.
    """
    named = [*CONFIG.study.datasets, *CONFIG.study.also_make]
    corpora = [c for name in named if (c := tuneproof_study.corpus_of(CONFIG, name))]
    encoder = CONFIG.corpora[corpora[0]].encoder if corpora else MADE[named[0]].encoder
    return f"resources/models/{encoder}/lock.json"


rule audit_leaks:
    """Count and list what every test set shares with every training set; more than is allowed ends the study."""
    input:
        splits=expand(
            "results/datasets/{dataset}/{split}.jsonl",
            dataset=MADE,
            split=["train", *tuneproof_study.TEST_SPLITS],
        ),
        encoder=audit_encoder(),
    output:
        table=report(
            "results/tables/leaks.csv",
            caption="../report/leaks.rst",
            category="Data",
            labels={"table": "what tests share with training"},
        ),
        text="results/tables/leaks.md",
        pairs="results/tables/leaks.jsonl",
    log:
        "logs/audit_leaks.log",
    benchmark:
        "results/costs/audit_leaks.tsv"
    priority: 1  # before a training that could start too: it may end the study before that is paid for
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    threads: 2
    params:
        folders=[f"results/datasets/{dataset}" for dataset in MADE],
        limits=CONFIG.study.leaks.model_dump_json(),
        accepted=[name for name, spec in MADE.items() if spec.accept_leaks],
    shell:
        "exec python scripts/audit_leaks.py --dataset {params.folders} --limits {params.limits:q} --accept {params.accepted}"
        " --encoder {input.encoder} --table {output.table} --text {output.text} --pairs {output.pairs} 2> {log}"


rule write_card:
    """Write a data set's card, and its splits as Parquet that `datasets.load_dataset` opens."""
    input:
        splits=SPLITS,
        funnel="results/datasets/{dataset}/funnel.json",
        types=card_types,
        encoder=card_encoder,
        models=card_models,
        decisions=decisions_of,
        prompts=lambda w: sorted({p for s in lineage(w) for p in PROMPTS[s.kind]}),
    output:
        card="results/datasets/{dataset}/card.md",
        data="results/datasets/{dataset}/card.json",
        readme="results/datasets/{dataset}/README.md",
        parquet=expand(
            "results/datasets/{{dataset}}/data/{split}.parquet",
            split=tuneproof_study.SPLITS,
        ),
    log:
        "logs/write_card/{dataset}.log",
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    params:
        spec=section("datasets", "dataset"),
        corpus=card_corpus,
        api=lambda w: json.dumps(
            {llm: CONFIG.llms[llm].model for llm in llms_behind(w) if llm in APIS}
        ),
        folder=lambda w: f"results/datasets/{w.dataset}",
    shell:
        "exec python scripts/write_card.py --name {wildcards.dataset} --spec {params.spec:q} --corpus {params.corpus:q}"
        " --splits {input.splits} --funnel {input.funnel} --types {input.types} --encoder {input.encoder}"
        " --model {input.models} --api {params.api:q} --prompt {input.prompts}"
        " --decisions {input.decisions} --out {params.folder} 2> {log}"


rule review_pairs:
    """Write a data set's pairs for people to review, as a table and a page, and how far the reviews so far agree."""
    input:
        pairs="results/datasets/{dataset}/screened.jsonl",
        chunks=of_corpus("chunks.jsonl"),
        template="report/review.html.j2",
        decisions=decisions_of,
    output:
        table="review/{dataset}.csv",
        page="review/{dataset}.html",
        summary="review/{dataset}.txt",
    log:
        "logs/review_pairs/{dataset}.log",
    wildcard_constraints:
        dataset=of_kind("pairs"),
    conda:
        "../envs/cpu.yaml"
    container:
        CONFIG.containers.cpu
    shell:
        "exec python scripts/review_pairs.py --name {wildcards.dataset} --pairs {input.pairs} --chunks {input.chunks}"
        " --template {input.template} --decisions {input.decisions} --table {output.table} --page {output.page}"
        " --summary {output.summary} 2> {log}"
