"""TRL's SFTTrainer on prompts and completions, as it comes, but told to load the weights in the recipe's precision.

python benchmarks/trainers/trl_sft.py JOB.json
"""

import datasets
import peft
import trl
from watch import Watch, job, rows


def main() -> None:
    todo = job()
    recipe = todo["recipe"]
    half = recipe["precision"] == "bf16"
    messages = [row["messages"] for row in rows(todo["train"])]
    lora = peft.LoraConfig(
        r=recipe["rank"],
        lora_alpha=recipe["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    args = trl.SFTConfig(
        output_dir=todo["out"],
        seed=recipe["seed"],
        bf16=half,
        use_cpu=True,
        model_init_kwargs={"dtype": "bfloat16" if half else "float32"},
        max_length=recipe["max_tokens"],
        completion_only_loss=True,
        num_train_epochs=1,
        per_device_train_batch_size=recipe["batch"],
        learning_rate=recipe["learning_rate"],
        lr_scheduler_type=recipe["schedule"],
        weight_decay=0.0,
        max_grad_norm=recipe["max_grad_norm"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **todo["options"],
    )
    watch = Watch()
    trainer = trl.SFTTrainer(
        model=todo["model"],
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": m[:-1], "completion": m[-1:]} for m in messages]),
        peft_config=lora,
        callbacks=[watch],
    )
    trainer.train()
    trainer.save_model(todo["out"])
    watch.report(rows(todo["tokens"]), ("torch", "transformers", "peft", "accelerate", "trl"))


if __name__ == "__main__":
    main()
