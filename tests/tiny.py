"""A tiny student with everything that a real one has: a Llama, a tokenizer, a chat template, a lock."""

import json
from pathlib import Path

from tuneproof.fetch.weights import read_lock, weights_sha256
from tuneproof.records import Example, file_sha256, write_json, write_rows

RUN = "tiny/lora/d/seed1"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = [
    "What is the power of metro CV1? It has 12 megawatts and 40 cages.",
    "Who manages the site at Haldrune? Ada Ferro manages it since 2019.",
    "How does a cross connect work? It joins two cages by a fibre.",
    "Why is the water cold? Because the river is near, and the pumps are new.",
    "user: my parcel is late\nagent: we are sorry, please send us the number\nuser: it is 4711",
]


def make_student(folder: Path, template: str = CHATML, dtype: str = "float32") -> Path:
    """Write a random Llama of two layers with a tokenizer of its own; return its lock."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    chatml = "im_end" in template
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>" if chatml else "<s>",
        eos_token="<|im_end|>" if chatml else "</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=256,
    )
    tokenizer.chat_template = template
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = [{"name": p.name, "sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(folder.iterdir())]
    write_json(folder / "lock.json", {"model": "tiny", "format": "transformers", "context": 256, "files": files})
    return folder / "lock.json"


def example(number: int, question: str, answer: str, split: str = "train", system: str | None = None) -> Example:
    """A row of a data set."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    key = f"row{number:03}"
    return Example(key, key, key, key, "", "", split, question, answer, messages)


def write_examples(path: Path, count: int, split: str = "train") -> Path:
    """Write rows of quite different lengths: sites with a number each, to be learned."""
    rows = [
        example(
            i,
            f"What is the power of metro CV{i}?" + " Please say it." * (i % 5),
            f"CV{i} has {10 + i} megawatts.",
            split,
        )
        for i in range(count)
    ]
    write_rows(path, rows)
    return path


def write_run(folder: Path, student: Path, kind: str = "lora") -> None:
    """Write what a training leaves: an adapter that changes what the model says, log, telemetry, spec."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(student, dtype="auto")
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:  # begins at zero: an adapter that does nothing
                weights.normal_(0, 0.2)
    model.save_pretrained(folder / "adapter")
    AutoTokenizer.from_pretrained(student).save_pretrained(folder / "adapter")
    method = {"kind": kind, "rank": 4, "alpha": 8, "epochs": 1, "learning_rate": 1e-3, "speed": {"packing": True}}
    model = weights_sha256(read_lock(student / "lock.json"))
    spec = {
        "method": method,
        "seed": 1,
        "model_sha256": model,
        "train_sha256": "0" * 64,
        "val_sha256": "1" * 64,
        "steps": 2,
    }
    write_json(folder / "spec.json", spec)
    log = [
        {"step": 0, "epoch": 0.0, "eval_loss": 4.25},
        {"step": 1, "epoch": 0.5, "loss": 2.0, "tokens": 100},
        {"step": 2, "epoch": 1.0, "loss": 1.0, "tokens": 210},
        {"step": 2, "epoch": 1.0, "eval_loss": 1.5},
    ]
    write_rows(folder / "train_log.jsonl", log)
    write_rows(folder / "telemetry.jsonl", [{"step": n, "seconds": 30.0 * n, "memory_mb": 900.0} for n in (1, 2)])


def write_study(folder: Path, dtype: str = "float32", kind: str = "lora") -> Path:
    """Write models, runs and data sets where the workflow has them."""
    make_student(folder / "resources/models/tiny/student", dtype=dtype)
    write_run(folder / "results/runs" / RUN, folder / "resources/models/tiny/student", kind)
    write_examples(folder / "results/datasets/d/val.jsonl", 6, "val")
    splits = {name: {"rows": 6} for name in ("train", "val", "test_trained_pages", "test_new_pages")}
    card = {
        "dataset": "d", "kind": "pairs", "purpose": "To tune a model.", "weaknesses": ["It is <small>."],
        "source": {"from": "a crawl from http://x.test/", "licence": None}, "splits": splits,
    }  # fmt: skip
    (folder / "results/datasets/d/card.json").write_text(json.dumps(card))
    return folder
