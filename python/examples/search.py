"""Finds texts by their meaning: vectors of all of them in an index (pip install hnswlib).

    python search.py embedding-model.gguf
"""

# %% The model; of one that was made to write text the vectors mean little
import sys

import hnswlib

from bitnet_gpu import LLM

llm = LLM(sys.argv[1] if len(sys.argv) > 1 else None)
pooling = None if llm.info["embeds"] else "mean"

# %% An index of texts
TEXTS = [
    "The dog ran after the ball.",
    "A cat sleeps on the sofa.",
    "It rains, and the street is wet.",
    "The soup is hot and good.",
    "A puppy plays in the garden.",
]
index = hnswlib.Index(space="cosine", dim=llm.n_embd)
index.init_index(max_elements=len(TEXTS))
index.add_items(llm.embed(TEXTS, pooling=pooling))

# %% The nearest to a question
question = "The dog ran after the stick."
found, distances = index.knn_query(llm.embed(question, pooling=pooling), k=3)
for text, distance in zip(found[0], distances[0]):
    print(f"{1 - distance:.3f}  {TEXTS[text]}")
