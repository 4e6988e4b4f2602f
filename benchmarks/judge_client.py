"""prometheus-eval's client on OpenVINO GenAI, in an environment of its own, for judge.py:

    python benchmarks/judge_client.py JOB.json

JOB.json: the model's file, the engine's settings, and the judgements as the client takes them, with the messages that
they have to come to. Prints JSON: seconds from loading to the last score, scores (null where there is none), and how
many replies were asked for.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from prometheus_eval import PrometheusEval
from prometheus_eval.prompts import ABSOLUTE_PROMPT


class Engine:
    """OpenVINO GenAI as one of the client's models."""

    validate_litellm = True  # how the client knows a model that takes messages

    def __init__(self, job: dict[str, Any]) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        for name, value in job["scheduler"].items():
            setattr(scheduler, name, value)
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(job["file"], scheduler, "CPU", {})
        self.asked: list[list[dict[str, str]]] = []

    def completions(
        self, inputs: list[list[dict[str, str]]], *, best_of: int, use_tqdm: bool, **sampling: float
    ) -> list[str]:
        """Write a reply to each, sampled as the client wishes; OpenVINO has no best_of, and 1 is what it asks for."""
        import openvino_genai

        assert best_of == 1
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = int(sampling.pop("max_tokens"))
        config.do_sample, config.rng_seed = True, len(self.asked)
        for name, value in sampling.items():  # temperature, top_p, repetition_penalty
            setattr(config, name, value)
        self.asked += inputs
        tokenizer = self.pipeline.get_tokenizer()
        prompts = [tokenizer.apply_chat_template(messages, add_generation_prompt=True) for messages in inputs]
        ids = [tokenizer.encode(prompt, add_special_tokens=False).input_ids for prompt in prompts]
        results = self.pipeline.generate(ids, [config] * len(ids))
        return [tokenizer.decode(list(result.m_generation_ids[0])) for result in results]


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    began = time.perf_counter()
    engine = Engine(job)
    client = PrometheusEval(model=engine, absolute_grade_template=ABSOLUTE_PROMPT)
    _, scores = client.absolute_grade(
        instructions=job["instructions"],
        responses=job["responses"],
        rubric=job["rubric"],
        reference_answers=job["references"],
    )
    seconds = time.perf_counter() - began
    assert engine.asked[: len(job["messages"])] == job["messages"], "the client asks something else than ours"
    print(json.dumps({"seconds": seconds, "scores": scores, "asked": len(engine.asked)}))


if __name__ == "__main__":
    main()
