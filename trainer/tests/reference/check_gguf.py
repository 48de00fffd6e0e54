"""Runs a GGUF in llama.cpp beside a checkpoint folder in transformers: tokens, logits, a greedy answer.

    python check_gguf.py FOLDER FILE.gguf [PROMPT]

llama.cpp is the one inside the package xllamacpp, whose library has its whole C interface; structures are passed without
looking into them, but for the first fields. Without llama.cpp's version in mind, read differences with care.
"""

import ctypes as C
import glob
import sys
from pathlib import Path

import numpy as np
import torch
import xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = ["Hello world", "  two  spaces ", "\n\nlines\n \t", "don't I'LL", "1234567890 3.14", "½ ٣٤", "日本語、かな", "한국어",
         "emoji 😀👩‍👩‍👧‍👦", "naïve café", "x = {'a': [1, 2]}\n", "....!!!???"]


class Opaque(C.Structure):
    """Any parameters: larger ones than these have never been seen, and smaller ones are followed by what nobody reads."""

    _fields_ = [("bytes", C.c_byte * 1024)]


class Batch(C.Structure):
    _fields_ = [("n", C.c_int)] + [(name, C.c_void_p) for name in ("token", "embd", "pos", "n_seq", "seq", "logits")]


class Llama:
    def __init__(self, path, context=512):
        self.library = C.CDLL(glob.glob(str(Path(xllamacpp.__file__).parent / "*.so"))[0])
        call = self.call
        call("llama_backend_init", None)()
        self.model = call("llama_model_load_from_file", C.c_void_p, C.c_char_p, Opaque)(
            str(path).encode(), call("llama_model_default_params", Opaque)())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        parameters = call("llama_context_default_params", Opaque)()
        C.cast(C.byref(parameters), C.POINTER(C.c_uint32))[0] = context
        self.context = call("llama_init_from_model", C.c_void_p, C.c_void_p, Opaque)(self.model, parameters)
        self.vocabulary = call("llama_model_get_vocab", C.c_void_p, C.c_void_p)(self.model)
        self.size = call("llama_vocab_n_tokens", C.c_int, C.c_void_p)(self.vocabulary)

    def call(self, name, result, *arguments):
        function = getattr(self.library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def tokens(self, text):
        data = text.encode()
        room = len(data) + 16
        found = (C.c_int * room)()
        tokenize = self.call("llama_tokenize", C.c_int, C.c_void_p, C.c_char_p, C.c_int, C.POINTER(C.c_int), C.c_int,
                             C.c_bool, C.c_bool)
        return list(found[:tokenize(self.vocabulary, data, len(data), found, room, True, True)])

    def next(self, token):
        one = (C.c_int * 1)(token)
        batch = self.call("llama_batch_get_one", Batch, C.POINTER(C.c_int), C.c_int)(one, 1)
        assert self.call("llama_decode", C.c_int, C.c_void_p, Batch)(self.context, batch) == 0
        logits = self.call("llama_get_logits_ith", C.POINTER(C.c_float), C.c_void_p, C.c_int)(self.context, -1)
        return np.ctypeslib.as_array(logits, (self.size,)).copy()


def main(folder, file, prompt="The capital of France is"):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    llama = Llama(file)
    different = [text for text in TEXTS if llama.tokens(text) != tokenizer(text)["input_ids"]]
    print(f"tokens differ in {len(different)} of {len(TEXTS)} texts: {different}")
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = np.stack([llama.next(token) for token in ids])
    difference = np.abs(found - expected)
    print(f"logits: range {np.ptp(expected):.2f}, greatest difference {difference.max():.4f}, mean {difference.mean():.5f}, "
          f"same best token in {(found.argmax(1) == expected.argmax(1)).sum()} of {len(ids)} places")
    answer, logits = [], found[-1]
    while len(answer) < 40 and (token := int(logits.argmax())) != tokenizer.eos_token_id:
        answer.append(token)
        logits = llama.next(token)
    print(f"greedy: {tokenizer.decode(answer)!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
