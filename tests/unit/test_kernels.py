"""compile and liger: the same losses where they run, one sentence where they cannot."""

import pytest
import torch
from tiny import make_student

from tuneproof.errors import InputError
from tuneproof.study import parse_method
from tuneproof.training import attention
from tuneproof.training.fused import fuse
from tuneproof.training.kernels import speed_up
from tuneproof.training.packing import packed
from tuneproof.training.rows import Row
from tuneproof.training.student import load_student

LORA = '{{"kind": "lora", "rank": 4, "alpha": 8, "epochs": 1, "learning_rate": 1, "batch_size": 4, {more}}}'
QLORA = LORA.replace('"lora"', '"qlora"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("student")).parent


def batches(count):
    """Packed rows, each batch with other numbers and lengths of rows than the one before."""
    chance = torch.Generator().manual_seed(1)
    for n in range(count):
        lengths = [20 + 7 * n + i for i in range(2 + n % 3)]
        yield packed(
            [
                Row(str(i), torch.randint(5, 300, (length,), generator=chance).tolist(), 10 + i)
                for i, length in enumerate(lengths)
            ],
            answer_logits=True,
        )


def losses(folder, text, checkpointing=False):
    """Eight steps of plain descent."""
    attention.register()
    torch.manual_seed(0)
    spec = parse_method(text)
    model = load_student(spec, folder, attention.SEGMENTS)
    fuse(model)
    speed_up(model, spec, "cpu")
    if checkpointing:
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    descent = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    seen = []
    for batch in batches(8):
        labels = batch.pop("shift_labels").reshape(-1)
        logits = model(**batch, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels)
        loss.backward()
        descent.step()
        descent.zero_grad()
        seen.append(loss.item())
        with torch.no_grad():  # as between steps a validation does
            model.eval()(**batch, use_cache=False)
        model.train()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_losses_and_are_compiled_once(folder, checkpointing):
    counters = torch._dynamo.utils.counters
    plain = losses(folder, LORA.format(more='"precision": "fp32"'), checkpointing)
    torch._dynamo.reset()
    counters.clear()
    compiled = losses(folder, LORA.format(more='"precision": "fp32", "speed": {"compile": true}'), checkpointing)
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert plain[0] != pytest.approx(plain[-1], abs=1e-3), "nothing was learned: nothing was compared"
    # before attention and behind it; the first layer, whose input needs no gradient, and evaluations apart
    assert 2 <= counters["stats"]["unique_graphs"] <= 12, "eight lengths, but not eight times compiled"
    reasons = list(counters["graph_break"])
    assert all("_segments" in reason for reason in reasons), reasons


@pytest.mark.parametrize("fused", [True, False])
def test_adapters_beside_four_bits_learn_after_an_evaluation_as_before(folder, fused):
    """On a CPU with AVX-512 bitsandbytes would repack its weights in the evaluation, and give no gradient any more."""
    pytest.importorskip("bitsandbytes")
    attention.register()
    spec = parse_method(QLORA.format(more='"targets": ["q_proj", "v_proj"]'))
    model = load_student(spec, folder, attention.SEGMENTS)
    if fused:
        assert fuse(model) == 4
    (batch,) = batches(1)
    labels = batch.pop("shift_labels").reshape(-1)

    def gradients():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=not fused):
            logits = model(**batch, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels).backward()
        return {name: p.grad.norm().item() for name, p in model.named_parameters() if "lora_B" in name}

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(**batch, use_cache=False)
    model.train()
    assert all(norm > 0 for norm in before.values())
    assert gradients() == pytest.approx(before, rel=1e-2)


def test_liger_is_refused_on_a_cpu(folder):
    with pytest.raises(InputError, match=r"speed\.liger: its kernels are Triton's and run on a GPU only, not on 'cpu'"):
        losses(folder, LORA.format(more='"speed": {"liger": true}'))


def test_compile_without_a_compiler_is_a_sentence(folder, monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(InputError, match=r"speed\.compile: on a CPU it needs a C\+\+ compiler"):
        losses(folder, LORA.format(more='"speed": {"compile": true}'))


def test_compile_with_zero3_is_refused(folder):
    with pytest.raises(InputError, match=r"speed\.compile: zero3"):
        losses(folder, LORA.format(more='"speed": {"compile": true}, "sharding": "zero3", "devices": 2'))


def test_attention_of_fp32_on_a_gpu_is_row_by_row():
    assert attention.best_for("cuda", True, "fp32") == attention.SEGMENTS, "flash attention has 16 bits only"
