"""LLaMA-Factory's supervised fine-tuning, as `llamafactory-cli train` runs it, from a data set in its sharegpt form.

    python benchmarks/trainers/llama_factory.py JOB.json

Its template for this model, smollm2, has another default system prompt than the model's own (a full stop more); it
is `chatml` here, which has none, and every row brings its system message: the tokens are then the same.
"""

import json
from pathlib import Path

from llamafactory.train.tuner import run_exp
from watch import Watch, job, rows


def main() -> None:
    todo = job()
    recipe = todo["recipe"]
    data = Path(todo["out"]).with_suffix(".data")
    data.mkdir(parents=True, exist_ok=True)
    (data / "train.json").write_text(json.dumps([{"messages": row["messages"]} for row in rows(todo["train"])]))
    tags = {name: name.removesuffix("_tag") for name in ("role_tag", "content_tag", "user_tag", "assistant_tag")}
    described = {
        "file_name": "train.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {**tags, "system_tag": "system"},
    }
    (data / "dataset_info.json").write_text(json.dumps({"benchmark": described}))
    watch = Watch()
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": todo["model"],
            "finetuning_type": "lora",
            "lora_rank": recipe["rank"],
            "lora_alpha": recipe["alpha"],
            "lora_dropout": 0.0,
            "lora_target": "all",
            "dataset_dir": str(data),
            "dataset": "benchmark",
            "template": "chatml",
            "cutoff_len": recipe["max_tokens"],
            "output_dir": todo["out"],
            "seed": recipe["seed"],
            "bf16": recipe["precision"] == "bf16",
            "use_cpu": True,
            "num_train_epochs": 1,
            "per_device_train_batch_size": recipe["batch"],
            "gradient_accumulation_steps": 1,
            "learning_rate": recipe["learning_rate"],
            "lr_scheduler_type": recipe["schedule"],
            "weight_decay": 0.0,
            "max_grad_norm": recipe["max_grad_norm"],
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **todo["options"],
        },
        callbacks=[watch],
    )
    packages = ("torch", "transformers", "peft", "accelerate", "trl", "llamafactory")
    watch.report(rows(todo["tokens"]), packages)


if __name__ == "__main__":
    main()
