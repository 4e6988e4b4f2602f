"""vLLM opens what a training leaves: the adapter beside its base, and the merged folder, with the same answers.

python -m pytest tests/gpu        on a machine with a GPU, in the judge's environment (envs/judge.lock) with peft
"""

import os

import pytest
from tiny import RUN, example, write_study

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def vllm():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # it would be compiled, by a compiler not at hand
    pytest.importorskip("peft", reason="peft is not installed: the adapter is made with it")
    return pytest.importorskip("vllm", reason="vLLM is not installed")


def test_adapter_and_merged_model_are_served_alike(vllm, tmp_path, run_script):
    from vllm.lora.request import LoRARequest

    study = write_study(tmp_path, "bfloat16")
    merged = study / "results/merged" / RUN
    done = run_script("merge_adapter", "--run", RUN, "--out", str(merged), cwd=study)
    assert done.returncode == 0, done.stderr
    greedy = vllm.SamplingParams(temperature=0, max_tokens=4)
    adapter = study / "results/runs" / RUN / "adapter"
    template = (adapter / "chat_template.jinja").read_text()
    questions = [example(n, f"What is the power of CV{n}?", "").messages[:1] for n in range(4)]
    small = {"max_model_len": 128, "gpu_memory_utilization": 0.3, "enforce_eager": True}

    def answers(model, lora=None):
        engine = vllm.LLM(str(model), tokenizer=str(adapter), enable_lora=lora is not None, max_lora_rank=8, **small)
        outputs = engine.chat(questions, greedy, chat_template=template, lora_request=lora, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    beside = answers(study / "resources/models/tiny/student", LoRARequest("lora", 1, str(adapter)))
    alone = answers(merged)
    same = sum(a == b for row, other in zip(beside, alone, strict=True) for a, b in zip(row, other, strict=False))
    assert same >= 0.75 * sum(map(len, beside)), "bf16 rounds the merged weights: a close call may fall otherwise"
