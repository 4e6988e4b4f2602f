"""One evaluator for the adapters of all contenders: plain transformers and PEFT in fp32, in this project's environment.

    python benchmarks/trainers/evaluate.py --model FOLDER --tokens val.jsonl ADAPTER…

Prints JSON: mean negative log-likelihood of an answer's token, for the base and for each adapter. All tokens of the
rows weigh the same; the end-of-turn token is among them, the line break that the template puts behind it is not.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of the base")
    parser.add_argument("--tokens", required=True, type=Path, help="validation rows: ids, prompt (its tokens)")
    parser.add_argument("adapters", nargs="*", type=Path, help="folders of adapters")
    args = parser.parse_args()

    import peft
    import torch
    import transformers

    rows = [json.loads(line) for line in args.tokens.read_text().splitlines()]
    end = transformers.AutoTokenizer.from_pretrained(args.model).eos_token_id

    @torch.inference_mode()
    def loss(model: Any) -> float:
        total, count = 0.0, 0
        for row in rows:
            last = max(i for i, token in enumerate(row["ids"]) if token == end)
            ids = torch.tensor([row["ids"][: last + 1]])
            wanted = ids[0, row["prompt"] :]
            # the logits that foretell the answer: the one before each of its tokens
            logits = model(input_ids=ids, logits_to_keep=len(wanted) + 1).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
            count += len(wanted)
        return total / count

    losses = {}
    for adapter in (None, *args.adapters):
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        if adapter:
            model = peft.PeftModel.from_pretrained(model, adapter)
        losses[str(adapter) if adapter else "base"] = loss(model.eval())
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
