"""vLLM answers for a base and its adapters on one load as transformers does, and for each as if it were alone.

python -m pytest tests/gpu        on a machine with a GPU, in the judge's environment (envs/judge.lock) with peft
"""

import pytest
from tiny import TEXTS, make_student, write_run

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def vllm():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    pytest.importorskip("peft", reason="peft is not installed: the adapter is made with it")
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from tuneproof.llm import vllm

    return vllm


def test_base_and_adapter_answer_on_one_load_as_alone_and_as_transformers(vllm, tmp_path):
    from tuneproof.llm import transformers
    from tuneproof.llm.calls import Request
    from tuneproof.training.fused import fuse

    student = make_student(tmp_path / "student", dtype="bfloat16")
    write_run(tmp_path / "run", student.parent)
    adapter = tmp_path / "run/adapter"
    requests = [Request([{"role": "user", "content": text}], 4) for text in TEXTS]

    def texts(base, tuned):
        return [reply.text for reply in base.engine(tuned, 8).answer(requests, lambda _: None)]

    shared = vllm.Base(student, [adapter], 8)
    plain, tuned = texts(shared, None), texts(shared, adapter)
    assert plain != tuned
    assert texts(shared, None) == plain, "an adapter leaves nothing behind"
    assert texts(shared, adapter) == tuned
    other = transformers.Base(student, prepare=fuse)
    for ours, theirs in ((plain, texts(other, None)), (tuned, texts(other, adapter))):
        equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
        assert equal >= 0.6 * len(ours), "other kernels round otherwise, and a close call may fall otherwise"
