"""Flash attention over packed rows against the same in plain matmul, and against each row alone.

python -m pytest tests/gpu        on a machine with a GPU, in the environment of envs/gpu.lock
"""

import pytest

pytestmark = pytest.mark.gpu

LENGTHS = (5, 130, 61, 1, 257)


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("flash attention needs Ampere or newer")
    return torch


def inputs(torch, heads, shared, width, seed=0, dtype=None):
    """Query, key and value as transformers hands them over, and the borders."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(n):
        x = torch.randn(1, n, sum(LENGTHS), width, generator=generator, device="cuda")
        return x.to(dtype or torch.bfloat16).requires_grad_()

    borders = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0).int()
    return [draw(heads), draw(shared), draw(shared)], borders


def attend(torch, name, tensors, borders, upstream):
    """Output and gradients of one attention: varlen, segments, or sdpa of each row alone."""
    from tuneproof.training import attention

    q, k, v = tensors
    scale = q.shape[-1] ** -0.5
    if name == "rows":
        rows = [slice(a, b) for a, b in zip(borders.tolist(), borders.tolist()[1:], strict=False)]
        sdpa = torch.nn.functional.scaled_dot_product_attention
        parts = [
            sdpa(q[:, :, r], k[:, :, r], v[:, :, r], is_causal=True, scale=scale, enable_gqa=True).transpose(1, 2)
            for r in rows
        ]
        output = torch.cat(parts, 1)
    else:
        function = getattr(attention, f"_{name}")
        output, _ = function(None, q, k, v, None, scale, cu_seq_lens_q=borders, max_length_q=max(LENGTHS))
    return [output.detach(), *torch.autograd.grad(output, tensors, upstream)]


@pytest.mark.parametrize(("heads", "shared", "width"), [(4, 2, 16), (4, 4, 64), (32, 32, 128), (32, 8, 128)])
def test_varlen_equals_segments_and_each_row_alone(torch, heads, shared, width):
    tensors, borders = inputs(torch, heads, shared, width)
    upstream = torch.randn(1, sum(LENGTHS), heads, width, device="cuda").bfloat16()
    exact = attend(torch, "rows", [x.detach().float().requires_grad_() for x in tensors], borders, upstream.float())
    for name in ("rows", "segments", "varlen"):
        for what, got, wanted in zip(("output", "dq", "dk", "dv"), attend(torch, name, tensors, borders, upstream),
                                     exact, strict=True):  # fmt: skip
            error = (got.float() - wanted).norm() / wanted.norm()
            assert error < 2e-2, f"{name}, {what}: {float(error)}"  # bf16 has 8 bits: 0.4 % a rounding


def test_nothing_is_seen_across_a_border(torch):
    """Another second row changes not one bit of the others, forward, and no gradient of theirs reaches it."""
    tensors, borders = inputs(torch, 4, 2, 64)
    others, _ = inputs(torch, 4, 2, 64, seed=1)
    second = slice(LENGTHS[0], LENGTHS[0] + LENGTHS[1])
    changed = [x.detach().clone() for x in tensors]
    for x, other in zip(changed, others, strict=True):
        x[:, :, second] = other.detach()[:, :, second]
    upstream = torch.randn(1, sum(LENGTHS), 4, 64, device="cuda").bfloat16()
    one = attend(torch, "varlen", tensors, borders, upstream)
    two = attend(torch, "varlen", [x.requires_grad_() for x in changed], borders, upstream)
    kept = torch.ones(sum(LENGTHS), dtype=torch.bool, device="cuda")
    kept[second] = False
    assert torch.equal(one[0][:, kept], two[0][:, kept])
    upstream[:, kept] = 0
    for gradient in attend(torch, "varlen", tensors, borders, upstream)[1:]:
        assert gradient[:, :, kept].abs().max() == 0


@pytest.mark.parametrize("layers", [2])
def test_packed_and_padded_rows_have_the_same_loss(torch, layers, tmp_path):
    """At the 7B's widths: varlen over packed rows, segments over the same, sdpa over padded ones."""
    from random_llama import LLAMA_2_7B
    from transformers import LlamaConfig, LlamaForCausalLM

    from tuneproof.training import attention
    from tuneproof.training.packing import packed, padded
    from tuneproof.training.rows import Row

    attention.register()
    generator = torch.Generator().manual_seed(0)
    rows = [Row(str(n), torch.randint(5, 32_000, (n,), generator=generator).tolist(), n // 2) for n in (40, 130, 61)]
    with torch.device("cuda"):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**{**LLAMA_2_7B, "num_hidden_layers": layers})).bfloat16()
    seen = {}
    for name, batch in (
        (attention.VARLEN, packed(rows, True)),
        (attention.SEGMENTS, packed(rows, True)),
        ("sdpa", padded(rows, 0, True)),
    ):
        model.set_attn_implementation(name)
        batch = {key: x.cuda() if torch.is_tensor(x) else x for key, x in batch.items()}
        labels = batch.pop("shift_labels").reshape(-1)
        logits = model(**batch, use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels, reduction="sum")
        model.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.float().norm() for p in model.parameters()]).norm()
        seen[name] = (float(loss.detach()) / int((labels != -100).sum()), float(norm))
    (loss, norm), *others = seen.values()
    for other_loss, other_norm in others:
        assert other_loss == pytest.approx(loss, abs=1e-2), seen
        assert other_norm == pytest.approx(norm, rel=2e-2), seen
