"""The configuration: what is right loads, what is wrong is named by its key."""

import copy
import json
import os

import pytest
import yaml

from tuneproof import cluster, study
from tuneproof.errors import InputError


@pytest.fixture
def config(root):
    return yaml.safe_load((root / "config.yaml").read_text())


def test_the_default_study_has_three_arms(config):
    loaded = study.load(config)
    assert [(run.id, mode, dataset) for run, mode, dataset in study.arms(loaded)] == [
        ("smollm2-135m-instruct/base", "closed", "haldrune"),
        ("smollm2-135m-instruct/base", "rag", "haldrune"),
        ("smollm2-135m-instruct/lora/haldrune/seed1", "closed", "haldrune"),
    ]


def test_a_study_needs_no_corpus_no_llm_and_no_judge(config):
    for registry in ("corpora", "llms", "judges"):
        del config[registry]
    config["datasets"] = {"talks": {"kind": "dialogues", "path": "talks", "encoder": "all-minilm-l6-v2"}}
    config["study"].update(datasets=["talks"], also_make=[], judges=[], published={})
    loaded = study.load(config)
    assert [(run.id, mode) for run, mode, _ in study.arms(loaded)] == [
        ("smollm2-135m-instruct/base", "closed"),
        ("smollm2-135m-instruct/lora/talks/seed1", "closed"),
    ], "nothing is looked up for a dialogue"
    assert (study.corpus_of(loaded, "talks"), study.llms_of(loaded)) == (None, [])
    assert list(study.made(loaded)) == ["talks"]


def test_nothing_is_looked_up_for_instructions_that_bring_what_they_are_about(config):
    config["study"]["datasets"] = ["haldrune", "haldrune-products"]
    config["study"]["tuned_modes"] = ["closed", "rag"]
    loaded = study.load(config)
    assert {dataset for _, mode, dataset in study.arms(loaded) if mode == "rag"} == {"haldrune"}
    assert {dataset for _, mode, dataset in study.arms(loaded) if mode == "closed"} == {"haldrune", "haldrune-products"}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Nothing but a home and a clone, in which the test stands."""
    for name in ("home", "clone"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path / "home"), "PATH": "", "ELSEWHERE": str(tmp_path)})
    return os.environ


def test_a_container_sees_what_lies_elsewhere(config, tmp_path, environment):
    for folder in ("labels", "talks", "certificates", "kept"):
        (tmp_path / folder).mkdir()
    for file in ("goods.yaml", "nq.jsonl", "facts.jsonl", "chat.jinja", "judge.txt", "compare.txt", "system.txt"):
        (tmp_path / file).touch()
    (tmp_path / "clone" / "prompts").mkdir()
    (tmp_path / "clone" / "prompts" / "judge.paper.txt").touch()
    (tmp_path / "clone" / "results").symlink_to(tmp_path / "kept")
    config["datasets"]["haldrune"]["types"]["human_labels"] = "$ELSEWHERE/labels"
    made = {"llm": "qwen", "encoder": "all-minilm-l6-v2"}
    config["datasets"]["goods"] = {"kind": "recommendation", "catalogue": "$ELSEWHERE/goods.yaml", **made}
    talks = {"kind": "dialogues", "path": "$ELSEWHERE/talks", "encoder": "all-minilm-l6-v2"}
    config["datasets"]["talks"] = {**talks, "system": "../system.txt"}
    config["corpora"]["haldrune"]["facts"] = f"{tmp_path}/facts.jsonl"
    config["models"]["smollm2-135m-instruct"]["chat_template"] = f"{tmp_path}/chat.jinja"
    config["judges"]["other"] = {"llm": "qwen", "prompt": f"{tmp_path}/judge.txt"}
    arms = ["smollm2-135m-instruct/base/haldrune.closed", "smollm2-135m-instruct/base/haldrune.rag"]
    config["study"]["comparisons"] = {"pair": {"judge": "qwen", "arms": arms, "prompt": f"{tmp_path}/compare.txt"}}
    config["trials"] = {
        "nq": {"file": "$ELSEWHERE/nq.jsonl", "judges": ["qwen"], "encoder": "all-minilm-l6-v2"},
        "gone": {"file": "$ELSEWHERE/gone.jsonl", "judges": ["qwen"], "encoder": "all-minilm-l6-v2"},
    }
    environment["APPTAINER_BIND"] = "/scratch"
    environment["XDG_CACHE_HOME"] = f"{tmp_path}/cache"
    environment["SSL_CERT_DIR"] = f"{tmp_path}/certificates:{tmp_path}/none"
    cluster.prepare_environment(study.load(config))
    first, *bound = environment["APPTAINER_BIND"].split(",")
    assert first == "/scratch", "what the user binds stays"
    named = (
        "cache certificates chat.jinja compare.txt facts.jsonl goods.yaml judge.txt kept labels nq.jsonl system.txt "
        "talks"
    )
    assert sorted(bound) == [f"{tmp_path}/{name}" for name in named.split()]
    assert environment["SINGULARITY_BIND"] == ",".join(bound), "there is no apptainer"


def test_a_folder_behind_a_link_is_bound_by_both_its_names(config, tmp_path, environment):
    (tmp_path / "lustre").mkdir()
    (tmp_path / "scratch").symlink_to("lustre")
    environment["HF_HOME"] = f"{tmp_path}/scratch/hub"
    cluster.prepare_environment(study.load(config))
    assert environment["APPTAINER_BIND"] == f"{tmp_path}/scratch/hub,{tmp_path}/lustre/hub"


@pytest.mark.parametrize(
    ("own", "token"),
    [
        ({}, "home/.cache/huggingface/token"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/huggingface/token"),
        ({"HF_HOME": "hf"}, "hf/token"),
    ],
)
def test_a_stored_login_is_found_though_the_caches_lie_elsewhere(config, tmp_path, environment, own, token):
    (tmp_path / token).parent.mkdir(parents=True)
    (tmp_path / token).write_text("hf_secret")
    environment |= {name: f"{tmp_path}/{folder}" for name, folder in own.items()}
    cluster.prepare_environment(study.load(config))
    assert os.environ["HF_TOKEN_PATH"] == f"{tmp_path}/{token}"
    assert "hf_secret" not in os.environ.values()


@pytest.mark.parametrize("own", [{}, {"HF_TOKEN_PATH": "/mine"}])
def test_without_a_login_the_place_of_the_token_stays_what_it_is(config, environment, own):
    environment |= own
    cluster.prepare_environment(study.load(config))
    assert os.environ.get("HF_TOKEN_PATH") == own.get("HF_TOKEN_PATH")


def test_the_pace_of_a_crawl_is_no_parameter_of_its_rule_and_reaches_the_script_all_the_same(config):
    polite = study.load(config)
    for pace in ({"delay_s": 7}, {"concurrency": 1}, {"retries": 9}, {"timeout_s": 99}, {"max_minutes": 600}):
        config["corpora"]["haldrune"]["crawl"] |= pace
        crawl = study.load(config).corpora["haldrune"].crawl
        assert study.crawl_parameter(crawl) == study.crawl_parameter(polite.corpora["haldrune"].crawl)
        assert (
            study.parse_crawl(study.crawl_parameter(crawl), "haldrune", study.pace_variable(study.load(config)))
            == crawl
        )


def test_the_grid_is_every_combination_less_the_excluded(config):
    config["study"].update(seeds=[1, 2, 3], exclude=[{"seed": 2}])
    runs = study.expand_runs(study.load(config))
    assert [run.seed for run in runs] == [None, 1, 3]


def test_an_arms_name_says_the_seed_where_there_are_several(config):
    def names():
        loaded = study.load(config)
        return [study.arm_name(loaded, run, mode) for run, mode, _ in study.arms(loaded)]

    base = ["smollm2-135m-instruct base, closed book", "smollm2-135m-instruct base, retrieval"]
    assert names() == [*base, "smollm2-135m-instruct lora on haldrune, closed book"]
    config["study"]["seeds"] = [1, 2]
    tuned = [f"smollm2-135m-instruct lora on haldrune (seed{n}), closed book" for n in (1, 2)]
    assert names() == [*base, *tuned]


def test_the_schema_on_disk_is_the_schema_of_the_types(root):
    on_disk = json.loads((root / "schemas" / "config.schema.json").read_text())
    assert on_disk == study.Config.model_json_schema(), "run `make schema`"


def test_every_key_is_described():
    def check(schema):
        for section in schema["$defs"].values():
            for name, field in section.get("properties", {}).items():
                assert field.get("description"), f"{section['title']}.{name} has no description"

    check(study.Config.model_json_schema())


WRONG = [
    ("methods.lora.rnak", 8, "methods.lora.rnak: unknown key, did you mean 'rank'?"),
    ("methods.lora.rank", 0, "methods.lora.rank: 0 is wrong: input should be greater than or equal to 1"),
    ("methods.lora.rank", "many", "methods.lora.rank: 'many' is wrong: input should be a valid integer"),
    (
        "methods.lora.kind",
        "magic",
        "methods.lora.kind: 'magic' is wrong: input should be one of 'lora', 'qlora', 'full'",
    ),
    ("study.models", ["smollm"], "study.models: 'smollm' is not in `models`, did you mean 'smollm2-135m-instruct'?"),
    ("study.models", [], "study.models: [] is wrong"),
    ("datasets.haldrune.corpus", "nowhere", "datasets.haldrune.corpus: 'nowhere' is not in `corpora`"),
    ("corpora.haldrune.folder", {"path": "x"}, "corpora.haldrune: expected exactly one of `crawl` and `folder`"),
    ("corpora.haldrune.crawl.start", ["haldrune"], "'haldrune' is no URL"),
    ("corpora.haldrune.groups", {"a": "("}, "groups.a: '(' is no regular expression"),
    ("corpora.haldrune.crawl.serve.host", "haldrune.com", "corpora.haldrune.crawl.serve.host: 'haldrune.com' is wrong"),
    ("studdy", {}, "studdy: unknown key, did you mean 'study'?"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), WRONG)
def test_a_wrong_value_is_named_by_key_value_and_what_was_expected(config, key, value, sentence):
    wrong = copy.deepcopy(config)
    *path, last = key.split(".")
    place = wrong
    for part in path:
        place = place[part]
    place[last] = value
    with pytest.raises(InputError) as error:
        study.load(wrong)
    assert sentence in str(error.value)


def test_all_wrong_keys_are_named_at_once(config):
    config["methods"]["lora"].update(rank=0, epochs=0)
    with pytest.raises(InputError) as error:
        study.load(config)
    assert "lora.rank" in str(error.value)
    assert "lora.epochs" in str(error.value)
