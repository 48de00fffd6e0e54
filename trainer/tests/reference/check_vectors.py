"""Checks a finished model of vectors against sentence-transformers, and its encoder against transformers' AutoModel.

    python check_vectors.py MODEL_DIR VECTORS_JSON [--tolerance X]

VECTORS_JSON is what the trainer said: `{"texts": ["…", …], "vectors": [[…], …]}`, vectors of length 1 by mean pooling.
Prints a JSON report and ends with 0 when everything agrees, with 1 when something differs. There is no network.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch
from transformers import AutoModel, AutoTokenizer


def by_hand(folder, texts):
    """The mean over what is not padding, of length 1, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, told = AutoModel.from_pretrained(folder, output_loading_info=True)
    unloaded = sorted(told["missing_keys"]) + sorted(told["unexpected_keys"])
    features = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**features).last_hidden_state
    mask = features["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1), unloaded


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    given = parser.parse_args()
    said = json.loads(given.vectors.read_text())
    vectors = torch.tensor(said["vectors"])
    found, unloaded = by_hand(given.model, said["texts"])
    differences = {"transformers": float((found - vectors).abs().max())}
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(given.model), device="cpu")
    encoded = torch.tensor(model.encode(said["texts"]))
    differences["sentence_transformers"] = float((encoded - vectors).abs().max())
    stated = json.loads((given.model / "sentence_bert_config.json").read_text())["max_seq_length"]
    length = model.max_seq_length
    report = {"differences": differences, "unloaded": unloaded, "max_seq_length": length, "modules": [type(module).__name__ for module in model]}
    print(json.dumps(report))
    good = not unloaded and length == stated and all(difference <= given.tolerance for difference in differences.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
