"""Models of the `transformers` package, unmodified, with random weights: trained and used as locally, to the bit."""

import copy
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ptrtensor as pt

VOCABULARY = 100


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    import_module("transformers").logging.set_verbosity_error()
    yield


def configured(model: str, config: str, **settings: Any) -> nn.Module:
    transformers = import_module("transformers")
    made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(vocab_size=VOCABULARY, **settings))
    return made


def gpt2() -> nn.Module:
    small = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 1}
    return configured("GPT2LMHeadModel", "GPT2Config", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **small)


def bert() -> nn.Module:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return configured("BertForSequenceClassification", "BertConfig", max_position_embeddings=32, **small, **dropout)


def batch_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (2, 10))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    labels = ids if name == "gpt2" else torch.tensor([0, 1])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


MODELS: dict[str, Callable[[], nn.Module]] = {"gpt2": gpt2, "bert": bert}


@pytest.fixture(params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("way", ["send", "to"])
def test_forward_backward_and_three_steps(name: str, way: str, worker: pt.Worker) -> None:
    torch.manual_seed(0)
    local = MODELS[name]().train()
    remote = copy.deepcopy(local)
    remote = pt.send(remote, worker) if way == "send" else remote.to(worker.device)
    batch = batch_of(name)
    there: dict[str, Tensor] = {key: pt.send(value, worker) for key, value in batch.items()}
    outputs: list[Any] = []
    for model, given in ((local, batch), (remote, there)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        trained = []
        for _ in range(3):
            trained.append(model(**given))
            trained[-1].loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        outputs += trained
    for mine, other in zip(outputs[:3], outputs[3:], strict=True):
        assert torch.equal(other.loss.detach().cpu(), mine.loss.detach())
        assert torch.equal(other.logits.detach().cpu(), mine.logits.detach())
    for (path, parameter), other in zip(local.named_parameters(), remote.parameters(), strict=True):
        assert pt.is_pointer(other) and other.location is worker, path
        assert torch.equal(other.detach().cpu(), parameter.detach()), path


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"use_cache": False}, {"do_sample": True, "top_k": 5, "temperature": 0.7}],
    ids=["greedy", "beams", "without cache", "sampling"],
)
def test_generate(options: dict[str, Any], worker: pt.Worker) -> None:
    torch.manual_seed(0)
    local = gpt2().eval()
    remote = pt.send(copy.deepcopy(local), worker)
    ids = batch_of("gpt2")["input_ids"]
    arguments = {"max_new_tokens": 8, "pad_token_id": 1, **{"do_sample": False, **options}}

    def generate(model: Any, given: Tensor) -> list[list[int]]:
        torch.manual_seed(7)
        worker.manual_seed(7)
        tokens: list[list[int]] = model.generate(given, attention_mask=torch.ones_like(given), **arguments).tolist()
        return tokens

    try:
        assert generate(remote, pt.send(ids, worker)) == generate(local, ids)
    finally:
        worker.manual_seed(None)


def test_mixed_precision(name: str, worker: pt.Worker) -> None:
    torch.manual_seed(0)
    local = MODELS[name]().train()
    remote = pt.send(copy.deepcopy(local), worker)
    batch = batch_of(name)
    losses = []
    for model, given in ((local, batch), (remote, {key: pt.send(value, worker) for key, value in batch.items()})):
        with torch.autocast("cpu", dtype=torch.bfloat16), worker.autocast():
            loss = model(**given).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == losses[0]
    for (path, mine), other in zip(local.named_parameters(), remote.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), path
        if mine.grad is not None and other.grad is not None:
            assert torch.equal(other.grad.cpu(), mine.grad), path


# --- other architectures: sliding windows, grouped heads, experts, encoders with decoders, images, sound

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LANGUAGE = {**SMALL, "vocab_size": VOCABULARY, "num_key_value_heads": 2, "max_position_embeddings": 64}
HALVES = {
    f"{half}_{what}": value
    for half in ("encoder", "decoder")
    for what, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
}

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LANGUAGE),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**LANGUAGE, "sliding_window": 4}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**LANGUAGE, "num_local_experts": 4}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"dropout_rate": 0, "decoder_start_token_id": 0},
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, "image_size": 32, "patch_size": 8}),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": VOCABULARY, "d_model": 32, "num_mel_bins": 8, "max_source_positions": 20, **HALVES}
        | {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    ),
}


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_other_architectures(architecture: str, virtual_worker: pt.VirtualWorker) -> None:
    model, config, settings = ARCHITECTURES[architecture]
    transformers = import_module("transformers")
    torch.manual_seed(0)
    local: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
    remote = pt.send(copy.deepcopy(local), virtual_worker)
    batch = batch_of("gpt2")
    if architecture in ("vit", "convnext"):
        batch = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    if architecture == "whisper":
        batch = {"input_features": torch.randn(2, 8, 40), "labels": batch["labels"]}
    there = {key: pt.send(value, virtual_worker) for key, value in batch.items()}
    expected, got = local(**batch).loss, remote(**there).loss
    torch.testing.assert_close(got.detach().cpu(), expected.detach())
    expected.backward()
    got.backward()
    for (path, mine), other in zip(local.named_parameters(), remote.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), path
        if mine.grad is not None and other.grad is not None:
            torch.testing.assert_close(other.grad.cpu(), mine.grad, msg=path)
