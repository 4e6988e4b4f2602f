"""A student of any Llama's shape with weights drawn on the device: nothing is downloaded, nothing lies on the disk.

    PYTHONPATH=scripts python tests/random_llama.py --memory-gb 24 -- --spec … --student … (as scripts/train.py)

`make_shape` writes what a student's folder has but the weights; `draw_weights` stands in for reading them. All that
follows (quantisation, adapters, attention, trainer) is the product's own code. Run as a script it is scripts/train.py
on such a student, and prints one line of JSON about what was used: the optimiser, kernels, attention, peak memory.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tuneproof.records import Example, file_sha256, write_json, write_rows

ROOT = Path(__file__).parents[1]
VOCABULARY = 32_000
LLAMA_2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"


def make_shape(folder: Path, **changes: int) -> Path:
    """Write configuration, tokenizer (a word is a token) and lock; return the lock. `changes` go to the 7B's shape."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(**{**LLAMA_2_7B, **changes}, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(config.vocab_size - len(special)))])}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        padding_side="left",
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    files = [{"name": p.name, "sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(folder.iterdir())]
    write_json(folder / "lock.json", {"model": "random", "format": "transformers", "context": 4096, "files": files})
    return folder / "lock.json"


def write_random_rows(
    path: Path, count: int, prompt: int, answer: int, seed: int, spread: float = 0.35, vocabulary: int = VOCABULARY
) -> Path:
    """Write rows of random words, `prompt` and `answer` tokens long in the mean, lengths spread log-normally.

    With `spread` 0 all rows are as long as one another.
    """
    import random

    chance = random.Random(seed)

    def words(mean: int) -> str:
        # exp(-spread² / 2) keeps the mean; no more than three times of it, so that no row is too long
        length = mean * chance.lognormvariate(-(spread**2) / 2, spread)
        return " ".join(f"w{chance.randrange(vocabulary - 4)}" for _ in range(max(2, min(round(length), 3 * mean))))

    rows = []
    for i in range(count):
        asked, said = words(prompt), words(answer - 1)  # EOS is the answer's last token
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        rows.append(Example(f"r{i}", f"r{i}", f"r{i}", f"r{i}", "", "", "train", asked, said, messages))
    write_rows(path, rows)
    return path


def draw_weights() -> None:
    """Make from_pretrained draw the weights of a folder's configuration, on the GPU where there is one.

    What it gets as `state_dict` goes through transformers' ordinary loading, quantisation included.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

    def from_pretrained(folder, **options):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = AutoConfig.from_pretrained(folder)
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                weights = LlamaForCausalLM(config).state_dict()
        finally:
            torch.set_default_dtype(default)
        options.setdefault("device_map", {"": 0 if device == "cuda" else "cpu"})
        model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights, **options)
        del weights
        if device == "cuda":  # what was needed to draw them is no part of a training
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return model

    AutoModelForCausalLM.from_pretrained = from_pretrained


def limit_memory(gigabytes: float) -> None:
    """Make this GPU one of fewer gigabytes (10⁹ bytes): more cannot be allocated, and no more is said to be free."""
    import torch

    limit = int(gigabytes * 1e9)
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    torch.cuda.mem_get_info = lambda device=None: (limit - torch.cuda.memory_reserved(), limit)


def what_was_used(trainer) -> dict:
    """What a training has really used: asked of its objects when it is done."""
    import torch

    from tuneproof.training.kernels import uses_liger

    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate wraps it
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    decoder = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    layers = decoder.model.layers
    linear = {type(module.base_layer).__name__ for module in layers.modules() if hasattr(module, "base_layer")}
    counters = torch._dynamo.utils.counters
    return {
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__name__}",
        "paged_tensors": sum(getattr(value, "is_paged", False) for value in states),
        "base_layers": sorted(linear),
        "attention": decoder.config._attn_implementation,
        "liger": uses_liger(decoder),
        "compiled_graphs": counters["stats"]["unique_graphs"],
        "checkpointing": bool(layers[0].gradient_checkpointing),
        "layer": type(layers[0]).__name__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-gb", type=float, help="memory that the GPU is to have, in 10⁹ bytes")
    parser.add_argument("arguments", nargs="*", help="after --: those of scripts/train.py")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "scripts"))
    import torch

    import train
    from tuneproof.training import tune

    if args.memory_gb:
        limit_memory(args.memory_gb)
    made, make_trainer = [], tune.make_trainer
    tune.make_trainer = lambda *a, **k: made.append(make_trainer(*a, **k)) or made[-1]
    draw_weights()
    sys.argv = ["train.py", *args.arguments]
    began = time.monotonic()
    train.main()
    seconds = time.monotonic() - began
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    print(json.dumps({**what_was_used(made[0]), "seconds": round(seconds, 2), "reserved_since_last_step": peak}))


if __name__ == "__main__":
    main()
