"""What a step is said to compute and to keep, against what torch counts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from tuneproof.arithmetic import device
from tuneproof.errors import InputError
from tuneproof.llm.transformers import Base
from tuneproof.training.compute import Shape, coming_bytes, data_sheet
from tuneproof.training.tune import own_gpu

SIZES = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
TOKENS, ANSWER = 64, 64


def llama(full=True):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager", tie_word_embeddings=False))
    if full:
        return model
    for parameter in model.parameters():
        parameter.requires_grad = False
    return get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def loss_of(model):
    logits = model(torch.arange(TOKENS)[None] % 512, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), torch.arange(TOKENS) % 512)


@pytest.mark.parametrize("full", [True, False])
def test_flops_are_those_that_torch_counts(full):
    model = llama(full)
    with FlopCounterMode(display=False) as counted:
        loss_of(model).backward()
    said = Shape.of(model, full).flops([TOKENS], ANSWER)
    # a matmul of eager attention fills both sides of the diagonal, of which one is useful; and the weights of a head
    # that is tuned are not counted
    both_sides = 6 * 3 * 256 * TOKENS**2
    head = 2 * 256 * 512 * TOKENS if full else 0
    # the first layer's adapters and weights send nothing back to the embedding, which is frozen or is looked up
    assert said + both_sides + head == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_what_a_batch_keeps_is_near_what_torch_keeps():
    model = llama(full=False).to(torch.bfloat16)
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())  # alive, so that no address is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_of(model)
    said = Shape.of(model, False).activation_bytes([TOKENS], ANSWER, keeps_probabilities=True)
    measured = sum(size for _, size in kept.values())
    assert 0.7 < said / measured < 1.5, (said, measured)


def test_what_is_still_to_come_onto_a_gpu():
    model = llama()
    n = sum(p.numel() for p in model.parameters())
    assert coming_bytes(model, "cpu", False, 0, 1) == 12 * n, "gradient and two moments; the weights are there"
    assert coming_bytes(model, "cuda", True, 0, 1) == (4 + 12 + 2) * n
    assert coming_bytes(model, "cuda", True, 1, 4) == (4 + 4 + 2 + 2) * n, "moments are spread"
    assert coming_bytes(model, "cuda", True, 3, 4) == (4 + 12 + 2) * n / 4
    adapters = llama(full=False)
    trained = sum(p.numel() for p in adapters.parameters() if p.requires_grad)
    assert coming_bytes(adapters, "cpu", False, 0, 1) == 12 * trained


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("", None),
    ],
)
def test_a_gpu_is_held_against_its_own_data_sheet(name, sheet):
    assert data_sheet(name) == sheet


@pytest.fixture
def old_driver(monkeypatch):
    """A torch that is built for CUDA, on a node whose driver does not offer it."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("given", [None, "", "-1", "NoDevFiles"])
def test_without_a_gpu_the_cpu_computes(old_driver, monkeypatch, given):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert device() == "cpu"


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_compute_on_the_cpu(old_driver, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    said = r"CUDA_VISIBLE_DEVICES is '0,1' and torch is built for CUDA 13\.0"
    with pytest.raises(InputError, match=said):
        device()
    with pytest.raises(InputError, match=said):
        Base(tmp_path / "lock.json")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device() == "cpu", "a torch for CPUs was asked for"


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert own_gpu(8) == 0
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own_gpu(4) == 3
    with pytest.raises(InputError, match=r"devices: 4 processes on this node, but it shows 2 GPU\(s\)"):
        own_gpu(2)
