#!/usr/bin/env python3
"""Trains the story model: ternary weights, int8 activations, one CPU core, bfloat16 products.

    python train.py --text train.txt --tokenizer tokenizer.json --valid valid.txt --minutes 90 --out checkpoint

Texts are stories separated by `<|endoftext|>`, which begins every story and ends the one before. The checkpoint has the layout
of Hugging Face with f32 masters, which `bitnet-gpu convert` makes ternary as the forward pass here does. `--init` goes on from
such a checkpoint. The learning rate follows the clock, so that the training ends when it is to end however busy the machine is.

Needs torch, numpy, safetensors and tokenizers; torch.compile needs a C++ compiler.
"""
import argparse
import collections
import json
import math
import os
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT, VOCAB = 256, 4, 4, 2, 64, 768, 512, 2048
EPS, THETA, END = 1e-5, 10000.0, 0
TOKENS_PER_STEP = 4096
SHORT = 256  # tokens of a window until --long-from
BF16 = torch.bfloat16


# ------------------------------------------------------------------------------------------------------------------ model
class Ternary(torch.autograd.Function):
    """Absmean: the scale is the mean of all magnitudes; straight through for gradients."""

    @staticmethod
    def forward(_, weight):
        scale = weight.abs().mean().clamp(min=1e-5)
        return ((weight / scale).round().clamp(-1, 1) * scale).to(BF16)

    @staticmethod
    def backward(_, gradient):
        return gradient.float()


def int8(x):
    """Absmax to int8 for each token and back, straight through for gradients."""
    scale = 127.0 / x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()).to(BF16)


def norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def rotary_tables():
    angles = torch.outer(torch.arange(CONTEXT).float(), 1.0 / THETA ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM))
    angles = torch.cat([angles, angles], -1)[None, :, None]
    return angles.cos(), angles.sin()


COS, SIN = rotary_tables()


def rotate(x):
    tokens, half = x.shape[1], HEAD_DIM // 2
    return x * COS[:, :tokens] + torch.cat([-x[..., half:], x[..., :half]], -1) * SIN[:, :tokens]


@torch.compile(dynamic=False)
def project(x, norm_weight, qkv):
    """Queries (with the heads of a group as more rows), keys and values, a batch for each head of keys."""
    batch, tokens, _ = x.shape
    group = HEADS // KV_HEADS
    y = F.linear(int8(norm(x, norm_weight)), qkv)
    q, k, v = y.split([HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM], -1)
    q = rotate(q.view(batch, tokens, HEADS, HEAD_DIM).float()) * HEAD_DIM**-0.5
    k = rotate(k.view(batch, tokens, KV_HEADS, HEAD_DIM).float())
    q = q.view(batch, tokens, KV_HEADS, group, HEAD_DIM).permute(0, 2, 3, 1, 4)
    k, v = (t.reshape(batch, tokens, KV_HEADS, HEAD_DIM).permute(0, 2, 1, 3) for t in (k, v))
    rows = (batch * KV_HEADS, -1, HEAD_DIM)
    return q.reshape(rows).to(BF16), k.reshape(rows).to(BF16), v.reshape(rows).contiguous()


@torch.compile(dynamic=False)
def attend(q, k, v):
    tokens = k.shape[1]
    at = torch.arange(tokens)
    scores = torch.bmm(q, k.transpose(1, 2)).float().view(len(k), -1, tokens, tokens)
    scores = scores.masked_fill(at[None, :] > at[:, None], float("-inf"))
    return torch.bmm(torch.softmax(scores, -1).to(BF16).view(len(k), -1, tokens), v)


@torch.compile(dynamic=False)
def finish(x, y, attn_norm, o, mlp_norm, gate_up, ffn_norm, down):
    batch, tokens, _ = x.shape
    y = y.view(batch, KV_HEADS, HEADS // KV_HEADS, tokens, HEAD_DIM).permute(0, 3, 1, 2, 4).reshape(batch, tokens, DIM)
    x = x + F.linear(int8(norm(y, attn_norm)), o)
    gate, up = F.linear(int8(norm(x, mlp_norm)), gate_up).split([FFN, FFN], -1)
    return x + F.linear(int8(norm(F.relu(gate.float()).square() * up.float(), ffn_norm)), down)


@torch.compile(dynamic=False)
def losses_of(x, norm_weight, embedding, targets):
    logits = F.linear(norm(x, norm_weight).to(BF16), embedding.to(BF16)).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


MATRICES = {
    "self_attn.q_proj": (DIM, DIM),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, DIM),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, DIM),
    "self_attn.o_proj": (DIM, DIM),
    "mlp.gate_proj": (FFN, DIM),
    "mlp.up_proj": (FFN, DIM),
    "mlp.down_proj": (DIM, FFN),
}
NORMS = {
    "input_layernorm": DIM,
    "self_attn.attn_sub_norm": DIM,
    "post_attention_layernorm": DIM,
    "mlp.ffn_sub_norm": FFN,
}


class Model:
    """Parameters by their names in a checkpoint; the head is the embedding."""

    def __init__(self, init):
        def made(name, *shape, std=None):
            value = torch.ones(shape) if std is None else torch.randn(shape) * std
            value = init[name].float() if init else value
            self.parameters[name] = nn.Parameter(value)
            return self.parameters[name]

        self.parameters = {}
        self.embedding = made("model.embed_tokens.weight", VOCAB, DIM, std=0.02)
        self.norm = made("model.norm.weight", DIM)
        self.layers = []
        for i in range(LAYERS):
            name = f"model.layers.{i}.{{}}.weight".format
            layer = {m: made(name(m), *shape, std=shape[1] ** -0.5) for m, shape in MATRICES.items()}
            self.layers.append(layer | {n: made(name(n), width) for n, width in NORMS.items()})

    def losses(self, ids, targets):
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            q, k, v, o, gate, up, down = (Ternary.apply(layer[m]) for m in MATRICES)
            before_attn, attn_sub, before_mlp, ffn_sub = (layer[n] for n in NORMS)
            y = attend(*project(x, before_attn, torch.cat([q, k, v])))
            x = finish(x, y, attn_sub, o, before_mlp, torch.cat([gate, up]), ffn_sub, down)
        return losses_of(x, self.norm, self.embedding, targets).view(ids.shape)

    def save(self, folder, tokenizer):
        os.makedirs(folder, exist_ok=True)
        tensors = {name: p.detach().clone().contiguous() for name, p in self.parameters.items()}
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
        shutil.copy(tokenizer, f"{folder}/tokenizer.json")
        write = lambda name, value: json.dump(value, open(f"{folder}/{name}", "w"), indent=1)
        end = "<|endoftext|>"
        write("config.json", {
            "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "vocab_size": VOCAB, "hidden_size": DIM,
            "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "hidden_act": "relu2", "max_position_embeddings": CONTEXT,
            "rms_norm_eps": EPS, "rope_theta": THETA, "tie_word_embeddings": True, "attention_bias": False,
            "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, "torch_dtype": "float32",
            "bos_token_id": END, "eos_token_id": END, "pad_token_id": END,
            "quantization_config": {
                "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"},
        })
        write("generation_config.json",
              {"bos_token_id": END, "eos_token_id": END, "do_sample": True, "temperature": 0.6, "top_p": 0.9})
        write("tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end, "pad_token": end,
            "add_bos_token": True, "model_max_length": CONTEXT, "clean_up_tokenization_spaces": False})


# ------------------------------------------------------------------------------------------------------------------- data
def stories(path):
    return [text.strip() for text in open(path, encoding="utf-8").read().split("<|endoftext|>") if text.strip()]


class Text:
    """Windows of the stories in a new order each time they have all been read."""

    def __init__(self, path, tokenizer, seed):
        counts = collections.Counter(stories(path))
        self.stories = [np.array([END, *tokenizer.encode(text).ids]) for text in counts]
        self.is_repeated = np.array([count > 1 for count in counts.values()])
        self.random = np.random.default_rng(seed)
        self.windows, self.length, self.tokens = [], 0, sum(map(len, self.stories))

    def batch(self, length, repeats):
        """Stories that the file has more than once come `repeats` times on average, the others once."""
        count = TOKENS_PER_STEP // length
        if length != self.length or len(self.windows) < count:
            times = np.where(self.is_repeated, repeats, 1.0)
            times = np.floor(times + self.random.random(len(times))).astype(int)
            order = self.random.permutation(np.repeat(np.arange(len(times)), times))
            stream = np.concatenate([self.stories[i] for i in order])[self.random.integers(length):]
            cuts = range(0, len(stream) - length, length)
            self.windows, self.length = [stream[at:at + length + 1] for at in cuts], length
            self.random.shuffle(self.windows)
        window = torch.from_numpy(np.stack([self.windows.pop() for _ in range(count)]))
        ids = window[:, :-1].clone()
        # As a window is read when a text is scored: behind the token that begins one.
        ids[:, 0] = END
        return ids, window[:, 1:].contiguous()


@torch.no_grad()
def perplexity(model, path, tokenizer):
    """Of chunks of 256 tokens, each behind the token that begins a text, the second half."""
    ids = torch.tensor([id for text in stories(path) for id in [END, *tokenizer.encode(text).ids]])
    chunks = ids[: len(ids) // 256 * 256].view(-1, 256).clone()
    chunks[:, 0] = END
    total = count = 0
    for some in chunks.split(TOKENS_PER_STEP // 256):
        padded = F.pad(some, (0, 1, 0, TOKENS_PER_STEP // 256 - len(some)))
        losses = model.losses(padded[:, :-1].contiguous(), padded[:, 1:].contiguous())[: len(some), 127:255]
        total, count = total + losses.sum().item(), count + losses.numel()
    return math.exp(total / count)


# --------------------------------------------------------------------------------------------------------------- training
@torch.no_grad()
def orthogonal(gradients):
    """Muon (Jordan 2024): five Newton-Schulz steps towards the nearest orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradients.to(BF16)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(BF16)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.mT if is_tall else x).float()


class Muon:
    """For matrices, those of one shape together; with Nesterov's momentum and decoupled weight decay."""

    def __init__(self, matrices, lr=0.02, momentum=0.95, decay=0.1):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.groups = collections.defaultdict(list)
        for matrix in matrices:
            self.groups[tuple(matrix.shape)].append(matrix)
        self.moments = {shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()}

    @torch.no_grad()
    def step(self, rate):
        for (rows, cols), group in self.groups.items():
            gradients, moment = torch.stack([m.grad for m in group]), self.moments[rows, cols]
            moment.lerp_(gradients, 1 - self.momentum)
            updates = orthogonal(gradients.lerp(moment, self.momentum))
            for matrix, update in zip(group, updates):
                matrix.mul_(1 - self.lr * rate * self.decay)
                matrix.add_(update, alpha=-self.lr * rate * max(1.0, rows / cols) ** 0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--text", required=True); add("--valid", required=True); add("--tokenizer", required=True)
    add("--out", required=True); add("--init", help="a checkpoint's folder"); add("--minutes", type=float, default=90)
    add("--long-from", type=float, default=0.7, help="part of the time after which windows have 512 tokens")
    add("--repeats", type=float, default=1.5, help="how often repeated stories come from then on")
    add("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)

    tokenizer = Tokenizer.from_file(args.tokenizer)
    text = Text(args.text, tokenizer, args.seed)
    model = Model(load_file(f"{args.init}/model.safetensors") if args.init else None)
    matrices = [layer[m] for layer in model.layers for m in MATRICES]
    others = [p for p in model.parameters.values() if not any(p is m for m in matrices)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    start, step, smooth = time.time(), 0, None
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        # Up for a minute and a half, level, and down to nothing over the last three quarters.
        rate = min(1.0, 0.01 + done * args.minutes / 1.5, (1 - done) / 0.75)
        is_long = done >= args.long_from
        ids, targets = text.batch(CONTEXT if is_long else SHORT, args.repeats if is_long else 1)
        loss = model.losses(ids, targets).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = 4e-3 * rate
        adam.step()
        muon.step(rate)
        for p in model.parameters.values():
            p.grad = None
        step += 1
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 500 == 0:
            tokens = step * TOKENS_PER_STEP
            print(f"{tokens / 1e6:.1f} M tokens, {tokens / text.tokens:.1f} times the text, loss {smooth:.3f}, "
                  f"perplexity {perplexity(model, args.valid, tokenizer):.2f}", flush=True)
            model.save(args.out, args.tokenizer)
    model.save(args.out, args.tokenizer)
    print(f"{step * TOKENS_PER_STEP / 1e6:.1f} M tokens, perplexity {perplexity(model, args.valid, tokenizer):.3f}")


if __name__ == "__main__":
    main()
