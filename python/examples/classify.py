"""Sorts texts into classes: every answer is JSON that a schema describes, and all texts are read side by side.

    python classify.py model.gguf
"""

# %% The model, and the form of its answers
import enum
import sys

import pydantic

from bitnet_gpu import LLM


class Topic(str, enum.Enum):
    animals = "animals"
    weather = "weather"
    food = "food"


class Label(pydantic.BaseModel, extra="forbid"):
    topic: Topic
    is_happy: bool


llm = LLM(sys.argv[1] if len(sys.argv) > 1 else None)

# %% One conversation for each text
TEXTS = [
    "The little dog ran after the ball and barked with joy.",
    "It rained all day, and the picnic was over.",
    "Grandma baked a cake with apples.",
    "The cat was lost in the dark wood.",
]
conversations = [
    [{"role": "user", "content": f"What is this text about, and is it happy?\n\n{text}"}] for text in TEXTS
]

# %% All answers at once
answers = llm.chat(conversations, response_format=Label, temperature=0)
for text, answer in zip(TEXTS, answers):
    label = Label.model_validate(answer.parsed())
    print(f"{label.topic.value:8} {'happy' if label.is_happy else 'sad':5} {text}")
