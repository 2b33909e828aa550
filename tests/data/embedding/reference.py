"""Embeddings of two small random models, in plain Python and double precision, without any code of this program.

    python3 reference.py > expected.json

The weights follow from the names of the tensors (see `numbers`), so that the test makes the same ones; all of them are
exact in f16. The graphs are those of bitnet.cpp (July 2026) for the embedding models: qwen3 with a norm on the input of
each projection, and gemma3 with these and with norms behind `o` and `down`. Inputs of projections are int8 with one
step a token: q = round_half_even(x * 127 / max(|x|, 1e-5)).
"""

import json
import math

VOCAB, IDS, EPS = 265, [5, 17, 100, 3, 260, 17], 1e-6
QWEN3 = dict(arch="qwen3", dim=128, ffn=256, heads=4, kv_heads=2, head_dim=64, layers=2, theta=1e6)
GEMMA3 = dict(arch="gemma3", dim=128, ffn=384, heads=2, kv_heads=1, head_dim=128, layers=2, theta=1e4)


def numbers(name):
    """A linear congruential generator, started by the FNV-1a hash of the name."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def take(name, count, f):
    source = numbers(name)
    return [f(next(source)) for _ in range(count)]


def norm_weight(name, size):
    return take(name, size, lambda n: 0.75 + n % 256 / 512)


def table(name, rows, cols):
    flat = take(name, rows * cols, lambda n: n % 256 / 256 - 0.5)
    return [flat[r * cols : (r + 1) * cols] for r in range(rows)]


def ternary(name, rows, cols):
    flat = take(name, rows * cols, lambda n: n % 3 - 1)
    return [flat[r * cols : (r + 1) * cols] for r in range(rows)]


SCALE = 1 / 8


def rms_norm(x, weight):
    factor = 1 / math.sqrt(sum(v * v for v in x) / len(x) + EPS)
    return [v * factor * w for v, w in zip(x, weight)]


def bit_linear(matrix, x):
    top = max(1e-5, max(abs(v) for v in x))
    q = [max(-128, min(127, round(v * 127 / top))) for v in x]
    return [sum(w * v for w, v in zip(row, q)) * SCALE * top / 127 for row in matrix]


def rotate(head, position, theta):
    half = len(head) // 2
    out = list(head)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(head))
        cos, sin = math.cos(angle), math.sin(angle)
        out[i] = head[i] * cos - head[i + half] * sin
        out[i + half] = head[i] * sin + head[i + half] * cos
    return out


def heads(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


def activate(arch, x):
    if arch == "gemma3":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / (1 + math.exp(-x))


def embed(m):
    dim, ffn, width, hd = m["dim"], m["ffn"], m["heads"] * m["head_dim"], m["head_dim"]
    kv_width = m["kv_heads"] * hd
    shapes = dict(
        attn_q=(width, dim), attn_k=(kv_width, dim), attn_v=(kv_width, dim), attn_output=(dim, width),
        ffn_gate=(ffn, dim), ffn_up=(ffn, dim), ffn_down=(dim, ffn),
    )
    gemma = m["arch"] == "gemma3"
    rows = table("token_embd.weight", VOCAB, dim)
    scale = math.sqrt(dim) if gemma else 1.0
    stream = [[v * scale for v in rows[i]] for i in IDS]
    for layer in range(m["layers"]):
        weight = lambda name: norm_weight(f"blk.{layer}.{name}.weight", dim)
        w = {name: ternary(f"blk.{layer}.{name}.weight", *shape) for name, shape in shapes.items()}
        n = {name: norm_weight(f"blk.{layer}.{name}_norm_in.weight", shape[1]) for name, shape in shapes.items()}
        project = lambda name, x: bit_linear(w[name], rms_norm(x, n[name]))
        q_norm = norm_weight(f"blk.{layer}.attn_q_norm.weight", hd)
        k_norm = norm_weight(f"blk.{layer}.attn_k_norm.weight", hd)
        keys, values = [], []
        for position, h in enumerate(stream):
            a = rms_norm(h, weight("attn_norm"))
            q = [rotate(rms_norm(x, q_norm), position, m["theta"]) for x in heads(project("attn_q", a), hd)]
            keys.append([rotate(rms_norm(x, k_norm), position, m["theta"]) for x in heads(project("attn_k", a), hd)])
            values.append(heads(project("attn_v", a), hd))
            attended = []
            for head, query in enumerate(q):
                kv = head * m["kv_heads"] // m["heads"]
                scores = [sum(x * y for x, y in zip(query, k[kv])) / math.sqrt(hd) for k in keys]
                top = max(scores)
                shares = [math.exp(s - top) for s in scores]
                for e in range(hd):
                    attended.append(sum(p * v[kv][e] for p, v in zip(shares, values)) / sum(shares))
            o = project("attn_output", attended)
            if gemma:
                o = rms_norm(o, weight("post_attention_norm"))
            h = [x + y for x, y in zip(h, o)]
            f = rms_norm(h, weight("ffn_norm"))
            gated = [activate(m["arch"], g) * u for g, u in zip(project("ffn_gate", f), project("ffn_up", f))]
            down = project("ffn_down", gated)
            if gemma:
                down = rms_norm(down, weight("post_ffw_norm"))
            stream[position] = [x + y for x, y in zip(h, down)]
    normed = [rms_norm(h, norm_weight("output_norm.weight", dim)) for h in stream]
    unit = lambda x: [v / math.sqrt(sum(u * u for u in x)) for v in x]
    mean = [sum(column) / len(normed) for column in zip(*normed)]
    return {"last": [round(v, 6) for v in unit(normed[-1])], "mean": [round(v, 6) for v in unit(mean)]}


print(json.dumps({"ids": IDS, "qwen3": embed(QWEN3), "gemma3": embed(GEMMA3)}))
