"""transformers' Trainer with PEFT, as their documentation shows it: a collator that pads.

python benchmarks/trainers/peft_trainer.py JOB.json
"""

import peft
import torch
import transformers
from watch import Watch, job, rows


def main() -> None:
    todo = job()
    recipe = todo["recipe"]
    half = recipe["precision"] == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    transformers.set_seed(recipe["seed"])
    tokens = rows(todo["tokens"])
    data = [
        {
            "input_ids": row["ids"],
            "attention_mask": [1] * len(row["ids"]),
            "labels": [-100] * row["prompt"] + row["ids"][row["prompt"] :],
        }
        for row in tokens
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(todo["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(todo["model"], dtype=dtype)
    lora = peft.LoraConfig(
        r=recipe["rank"],
        lora_alpha=recipe["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    args = transformers.TrainingArguments(
        output_dir=todo["out"],
        seed=recipe["seed"],
        bf16=half,
        use_cpu=True,
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
    trainer = transformers.Trainer(
        model=peft.get_peft_model(model, lora),
        args=args,
        train_dataset=data,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[watch],
    )
    trainer.train()
    trainer.save_model(todo["out"])
    watch.report(tokens, ("torch", "transformers", "peft", "accelerate"))


if __name__ == "__main__":
    main()
