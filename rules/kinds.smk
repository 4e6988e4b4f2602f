"""What each kind of data set is made from and with: inputs and parameters of rules that depend on the kind."""

from tuneproof.dialogues import layouts


def types_of(wildcards):
    """The section `types` of a data set."""
    return TYPES[wildcards.dataset]


def types_section(wildcards):
    """The same as JSON."""
    return types_of(wildcards).model_dump_json()


def annotated_by_llm(part):
    """What the data set's LLM has annotated: its pairs, or questions that people have sorted."""
    return (
        lambda w: f"results/datasets/{w.dataset}/types/{part}.{types_of(w).llm}.jsonl"
    )


def human_labels(wildcards):
    """The tables of questions that people have sorted, where a study names them; the job says which is missing."""
    folder = types_of(wildcards).human
    return sorted(map(str, folder.glob("*.csv"))) if folder else []


def calibrated(wildcards):
    """The argument of a script that takes off the LLM's leaning."""
    return "--calibrated" if types_of(wildcards).calibrated else ""


def of_parent(path):
    """An input below the data set that a typed one is drawn from."""
    return lambda wildcards: f"results/datasets/{MADE[wildcards.dataset].of}/{path}"


def pairs_of_calls(wildcards):
    """The pairs that calls are made of, and the rows that say which pages their data set holds out; a pitch has none."""
    if CONFIG.datasets[wildcards.dataset].kind != "next-steps":
        return []
    names = ("pairs", "train", "val")
    return [f"{parent_folder(wildcards)}/{name}.jsonl" for name in names]


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
    "dialogues": [],
}


def system_prompt(wildcards):
    """The file with the system prompt of a data set's rows, where they have one."""
    system = getattr(MADE[wildcards.dataset], "system", None)
    return [system] if system else []


def dialogue_files(wildcards):
    """The files that dialogues are read from, so that an edit is seen; the job says which is missing."""
    return [str(path) for path in layouts.files_of(MADE[wildcards.dataset])]


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
    """The lock of the encoder whose tokenizer counts a data set's tokens; one without a corpus names its own."""
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
    """The section of a data set's corpus, as JSON; nothing where it has none."""
    corpus = corpus_of(wildcards)
    return CONFIG.corpora[corpus].model_dump_json() if corpus else ""


def audit_encoder():
    """The lock of the encoder that compares texts."""
    return f"resources/models/{tuneproof_study.leaks_encoder(CONFIG)}/lock.json"
