"""One process of test_sharding.py: LoRA of a tiny Llama under DDP or a stage of ZeRO."""

import json
import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

from tuneproof.study import LoRA
from tuneproof.training.sharding import deepspeed_config, prepare_deepspeed

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        draw = torch.Generator().manual_seed(1)
        first = torch.randint(0, 64, (64, 1), generator=draw)
        self.tokens = (first + torch.arange(12)) % 64

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, row):
        return {"input_ids": self.tokens[row], "labels": self.tokens[row]}


def train(out, sharding, resume=None, max_steps=12):
    spec = LoRA(
        kind="lora",
        rank=4,
        alpha=8,
        epochs=1,
        learning_rate=0.02,
        batch_size=2,
        accumulation=2,
        devices=2,
        sharding=sharding,
    )
    arguments = TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
        max_steps=max_steps,
        per_device_train_batch_size=spec.batch_size,
        gradient_accumulation_steps=spec.accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=spec.max_grad_norm,
        logging_steps=1,
        save_steps=6,
        report_to=[],
        disable_tqdm=True,
        seed=5,
        optim="adamw_torch_fused",
        deepspeed=deepspeed_config(spec),
    )
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_attention_heads=2))
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows())
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(out / "adapter"))
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def main(out, sharding):
    prepare_deepspeed(on_gpu=False)
    out = Path(out) / sharding
    losses = train(out, sharding)
    resumed = train(out, sharding, resume=str(out / "checkpoint-6"))
    if os.environ["RANK"] == "0":
        (out / "losses.json").write_text(json.dumps({"whole": losses, "resumed": resumed}))
