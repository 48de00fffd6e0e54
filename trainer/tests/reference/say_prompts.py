"""What transformers says after some prompts: logits after the last token, and a greedy continuation.

    python say_prompts.py MODEL OUT_JSON OUT_SAFETENSORS [--tokens N]

JSON: `prompts` `[{"messages", "ids", "continuation"}]`, the ids as the chat template renders the messages. Safetensors: `logits.<i>`
`[vocabulary]` f32.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = [
    "What is the capital of France?", "Write a short poem about rain.", "Explain gravity to a child.", "List three fruits.",
    "Why is the sky blue?", "Tell me a joke.", "How do I boil an egg?", "What is 12 times 12?", "Translate 'good morning' to French.",
    "Who wrote Hamlet?", "Give me a name for a cat.", "What is a prime number?", "Écris une phrase en français.",
    "Summarize the water cycle.", "What does HTTP stand for?", "def fibonacci(n):\n    # complete this function", "你好，你是谁？",
    "Describe a sunset in one sentence.", "Is a tomato a fruit or a vegetable?", "Count from one to ten. 🙂",
]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("json", type=Path)
    parser.add_argument("tensors", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    prompts, tensors = [], {}
    for number, question in enumerate(QUESTIONS):
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        tensors[f"logits.{number}"] = model(input_ids=ids).logits[0, -1].float().contiguous()
        made = model.generate(ids, max_new_tokens=options.tokens, do_sample=False)[0, ids.shape[1]:]
        prompts.append({"messages": messages, "ids": ids[0].tolist(), "continuation": made.tolist()})
    options.json.write_text(json.dumps({"prompts": prompts}))
    save_file(tensors, options.tensors)


if __name__ == "__main__":
    main()
