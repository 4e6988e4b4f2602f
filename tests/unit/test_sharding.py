"""Sharding: each stage of ZeRO gives the losses of plain data parallelism, and goes on from its checkpoints."""

import json

import pytest
from processes import run_together
from safetensors.torch import load_file

from tuneproof.errors import InputError
from tuneproof.study import LoRA
from tuneproof.training import sharding
from tuneproof.training.sharding import deepspeed_config, prepare_deepspeed, step_sentence

RECIPE = {"kind": "lora", "rank": 1, "alpha": 1, "epochs": 1, "learning_rate": 1, "batch_size": 8, "accumulation": 4}
STAGES = ["zero1", "zero2", "zero3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """LoRA of a tiny Llama by two processes: twelve steps, and from the sixth again."""
    out = tmp_path_factory.mktemp("sharding")
    runs = [argument for name in ("none", *STAGES) for argument in ("--", out, name)]
    said = run_together("sharding_trainer", 2, *runs[1:])
    assert "built successfully" not in said, "nothing is compiled"
    losses = {name: json.loads((out / name / "losses.json").read_text()) for name in ("none", *STAGES)}
    adapters = {name: load_file(out / name / "adapter" / "adapter_model.safetensors") for name in ("none", *STAGES)}
    return losses, adapters


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_as_ddp_does(trained, stage):
    losses, adapters = trained
    assert len(losses["none"]["whole"]) == 12 and losses["none"]["whole"][-1] < losses["none"]["whole"][0] - 0.2
    assert losses[stage]["whole"] == pytest.approx(losses["none"]["whole"], abs=1e-5)
    assert adapters[stage].keys() == adapters["none"].keys(), "whole tensors, gathered"
    for name, tensor in adapters["none"].items():
        assert adapters[stage][name].shape == tensor.shape
        assert (adapters[stage][name] - tensor).abs().max() < 2e-5


@pytest.mark.parametrize("stage", ["none", *STAGES])
def test_a_stage_goes_on_from_its_checkpoint(trained, stage):
    losses, _ = trained
    assert losses[stage]["resumed"] == losses[stage]["whole"]


def test_what_deepspeed_is_told():
    spec = {**RECIPE, "devices": 4}
    assert deepspeed_config(LoRA(**spec)) is None
    config = deepspeed_config(LoRA(**spec, sharding="zero2"))
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": "auto"}
    assert config["gradient_clipping"] == config["gradient_accumulation_steps"] == "auto"
    assert not {"optimizer", "scheduler"} & set(config), "they are the trainer's"
    assert deepspeed_config(LoRA(**spec, sharding="zero3"))["zero_optimization"][
        "stage3_gather_16bit_weights_on_model_save"
    ]


def test_without_deepspeed(monkeypatch):
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="sharding needs DeepSpeed, which is not installed here"):
        prepare_deepspeed(on_gpu=True)


@pytest.mark.parametrize(
    ("devices", "processes", "said"),
    [
        (1, 1, "a step of 32 rows: 8 × 4 accumulated × 1 process"),
        (4, 4, "a step of 128 rows: 8 × 4 accumulated × 4 processes"),
        (4, 1, "a step of 128 rows: 8 × 16 accumulated × 1 process (the recipe has 4 devices)"),
        (1, 2, "a step of 32 rows: 8 × 2 accumulated × 2 processes (the recipe has 1 device)"),
    ],
)
def test_a_step_is_said_in_rows(devices, processes, said):
    assert step_sentence(LoRA(**RECIPE, devices=devices), processes) == said
