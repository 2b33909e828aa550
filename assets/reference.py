#!/usr/bin/env python3
"""Computes what the tests compare the story model with, by transformers in f32: its perplexity and greedy answers.

    python reference.py checkpoint valid.txt > reference.json

Needs torch and transformers.
"""
import json
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

PROMPTS = ["Once upon a time", "One day, a little girl named Lily", "The dog was sad because"]
END, CHUNK, ANSWER = 0, 256, 64

folder, valid = sys.argv[1:]
torch.set_num_threads(1)
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

with torch.no_grad():
    ids = torch.tensor([END, *tokenizer.encode(open(valid, encoding="utf-8").read()).ids])
    chunks = ids[: len(ids) // CHUNK * CHUNK].view(-1, CHUNK).clone()
    chunks[:, 0] = END
    total = count = 0
    for some in chunks.split(16):
        logits = model(some).logits[:, CHUNK // 2 - 1 : -1]
        targets = some[:, CHUNK // 2 :]
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()

    greedy = {}
    for prompt in PROMPTS:
        ids = [END, *tokenizer.encode(prompt).ids]
        answer, gap = [], float("inf")
        while len(answer) < ANSWER:
            best = model(torch.tensor([ids + answer])).logits[0, -1].topk(2)
            gap = min(gap, (best.values[0] - best.values[1]).item())
            answer.append(best.indices[0].item())
            if answer[-1] == END:
                break
        text = tokenizer.decode(answer)
        greedy[prompt] = {"prompt_ids": ids, "greedy_ids": answer, "text": text, "smallest_gap": round(gap, 4)}

definition = (
    "transformers, f32. Chunks of 256 tokens of BOS and the whole text; the first id of each is BOS; positions 128 to 255 "
    "scored; the incomplete last chunk dropped. smallest_gap: between the best and the second logit of an answer."
)
perplexity = torch.tensor(total / count).exp().item()
json.dump(
    {"definition": definition, "perplexity": perplexity, "tokens_scored": count, "greedy": greedy},
    sys.stdout, indent=1, ensure_ascii=False,
)
print()
