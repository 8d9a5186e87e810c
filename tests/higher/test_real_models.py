"""Models people use: small random ones, inner loops as by ``functional_call``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unroll import assert_same_unroll, fast_unroll, reference_unroll

import higher

# random weights only: nothing is looked up
os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", minversion="5")

SIZES = {"vocab_size": 17, "hidden_size": 8, "num_hidden_layers": 2}
LAYERS = {**SIZES, "num_attention_heads": 2, "intermediate_size": 12}
IDS = torch.tensor([[1, 5, 3, 2, 9, 4], [7, 3, 3, 1, 2, 6]])


def gpt2(**kwargs: Any) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=8, n_embd=8, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0, **kwargs,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).double()


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        **LAYERS, num_key_value_heads=1, max_position_embeddings=8, pad_token_id=0
    )
    return transformers.LlamaForCausalLM(config).double()


def bert() -> nn.Module:
    config = transformers.BertConfig(
        **LAYERS, max_position_embeddings=8,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config).double()


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=17, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2,
        dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).double()


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=12, image_size=8, patch_size=4, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).double()


def language(model: Callable[..., Any]) -> Tensor:
    return model(input_ids=IDS, labels=IDS, use_cache=False).loss


def masked(model: Callable[..., Any]) -> Tensor:
    return model(input_ids=IDS, attention_mask=(IDS != 6).long(), labels=IDS).loss


def images(model: Callable[..., Any]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    return model(pixel_values=x, labels=torch.tensor([0, 2])).loss


CASES = {
    "gpt2": (gpt2, language),
    "llama": (llama, language),
    "bert": (bert, masked),
    "t5": (t5, language),
    "vit": (vit, images),
}


@pytest.mark.parametrize("name", CASES)
def test_a_real_model_has_the_meta_gradient_of_a_plain_loop(name: str) -> None:
    make, loss = CASES[name]
    assert_same_unroll(make(), loss, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_kind_of_attention_has_the_meta_gradient_of_a_plain_loop(
    attention: str,
) -> None:
    model = gpt2()
    model.set_attn_implementation(attention)
    assert_same_unroll(model, language, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradient_checkpointing_changes_no_meta_gradient(
    name: str, reentrant: bool
) -> None:
    make, loss = CASES[name]
    model, plain = make(), make()
    plain.load_state_dict(model.state_dict())
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    assert_same_unroll(model, loss, reference=plain.train(), rtol=1e-6, atol=1e-9)


def test_generation_with_fast_weights_gives_the_models_words() -> None:
    """A method of the model, which looks at its signature and its class."""
    model = gpt2().eval()
    fmodel = higher.monkeypatch(model)
    settings = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
    got = fmodel.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
    assert torch.equal(got, wanted)


def _with_adapters() -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True
    )
    model = peft.get_peft_model(gpt2(), config)
    for name, p in model.named_parameters():
        if "lora_B" in name:  # they start at zero, where half the gradients vanish
            nn.init.normal_(p, std=0.1)
    return model.double()


def test_lora_adapts_its_own_weights_alone() -> None:
    model = _with_adapters()
    assert_same_unroll(model, language, rtol=1e-6, atol=1e-9)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        diff.step(language(fmodel))
        pairs = zip(fmodel.named_parameters(), model.parameters(), strict=True)
        fresh = [n for (n, f), p in pairs if not torch.equal(f, p)]
    assert len(fresh) == 4 and all("lora" in n for n in fresh)


def test_lora_switched_off_and_on() -> None:
    model = _with_adapters().eval()
    fmodel = higher.monkeypatch(model)
    with fmodel.disable_adapter():
        base = language(fmodel)
    assert not torch.equal(base, language(fmodel))
    torch.testing.assert_close(language(fmodel), language(model))


def test_accelerates_hooks_change_no_meta_gradient() -> None:
    hooks = pytest.importorskip("accelerate.hooks")

    class Doubling(hooks.ModelHook):
        def post_forward(self, module: nn.Module, output: Any) -> Any:
            return output * 2

    model, plain = gpt2(), gpt2()
    plain.load_state_dict(model.state_dict())
    hooks.add_hook_to_module(model.transformer.h[0].mlp, Doubling())
    hooks.attach_align_device_hook(model, execution_device="cpu")
    plain.transformer.h[0].mlp.register_forward_hook(lambda m, a, out: out * 2)
    outer, meta = fast_unroll(model, language)
    wanted_outer, wanted_meta = reference_unroll(plain, language)
    torch.testing.assert_close(outer, wanted_outer)
    torch.testing.assert_close(meta, wanted_meta, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [gpt2, llama, bert, t5], ids=lambda m: m.__name__)
def test_tasks_at_once_have_the_derivatives_of_a_loop(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = list(model.parameters())
    ids = torch.stack([IDS, IDS.flip(1)])

    def loss_fn(f: Any, batch: Any) -> Tensor:
        return f(input_ids=batch["ids"], labels=batch["ids"]).loss

    with higher.innerloop_ctx(model, opt, copy_initial_weights=False, tasks=2) as (
        f,
        d,
    ):
        higher.unroll(f, d, loss_fn, [{"ids": ids}] * 2, memory="step")
        losses = higher.map_tasks(f, loss_fn, {"ids": ids})
        found = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
    total = []
    for own in ids:
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            higher.unroll(f, d, loss_fn, [{"ids": own}] * 2)
            total.append(loss_fn(f, {"ids": own}))
    wanted = torch.autograd.grad(sum(total), weights, allow_unused=True)
    torch.testing.assert_close(found, wanted)


def test_a_cache_among_the_outputs_of_all_tasks_is_refused() -> None:
    model = gpt2()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, tasks=2) as (f, _):
        with pytest.raises(TypeError, match="use_cache=False"):
            f(input_ids=IDS[:, None])
        assert f(input_ids=IDS[:, None], use_cache=False).logits.shape == (2, 1, 6, 17)
