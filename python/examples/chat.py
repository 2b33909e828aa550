"""Talks with a model: answers appear as they are written. Ctrl-C ends an answer, the end of the input the talk.

    python chat.py model.gguf
"""

# %% The model
import sys

from bitnet_gpu import LLM

llm = LLM(sys.argv[1] if len(sys.argv) > 1 else None)
messages = [{"role": "system", "content": "You are brief and friendly."}]

# %% A turn for each line
for line in sys.stdin:
    messages.append({"role": "user", "content": line.strip()})
    with llm.chat(messages, stream=True, max_tokens=60) as answer:
        try:
            for piece in answer:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" ...", end="")
    print()
    messages.append(answer.output.message)
