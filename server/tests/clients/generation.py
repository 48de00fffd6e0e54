"""Drives chats, completions and embeddings with the official `openai` client, unmodified, as its users do.

usage: generation.py BASE_URL; prints one line for each thing that was found to be right, `ok` at the end.
The server's trainer is `tests/fixtures/worker.py`, which repeats what it is told; with REAL=1 in the environment it is a
real one, and what is said is not compared.
"""

import json
import os
import sys

import openai
from openai import OpenAI

REAL = os.environ.get("REAL") == "1"
MODEL = "tiny"


def right(what: str) -> None:
    print(f"{openai.__version__}: {what}", flush=True)


def says(found: str, expected: str) -> None:
    assert REAL or found == expected, (found, expected)


def refused(status: int, call, **fields) -> None:
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        assert error.request_id, "an answer without x-request-id"
        for name, value in fields.items():
            assert getattr(error, name) == value, (name, getattr(error, name), error)
        return
    raise AssertionError(f"a refusal with {fields} was expected")


def user(text: str) -> list:
    return [{"role": "system", "content": "Repeat."}, {"role": "user", "content": text}]


def chats(client: OpenAI) -> None:
    create = client.chat.completions.create
    answer = create(model=MODEL, messages=user("how are you"), temperature=0, max_completion_tokens=8)
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant", answer
    says(answer.choices[0].message.content, "how are you")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer
    right("a chat is answered")

    two = create(model=MODEL, messages=user("a b"), n=2, logprobs=True, top_logprobs=2, max_completion_tokens=4)
    assert [choice.index for choice in two.choices] == [0, 1], two
    content = two.choices[0].logprobs.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in content), content
    says("".join(token.token for token in content), "a b")
    right("two answers have the logarithms of their tokens")

    chunks = list(create(model=MODEL, messages=user("one two three"), stream=True, max_completion_tokens=6,
                         stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].choices[0].delta.role == "assistant", chunks
    says("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), "one two three")
    assert chunks[-2].choices[0].finish_reason in ("stop", "length"), chunks[-2]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0, chunks[-1]
    right("a stream brings pieces, the reason of the end and the counts")

    schema = {"name": "answer", "strict": True, "schema": {
        "type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"],
        "additionalProperties": False}}
    answer = create(model=MODEL, messages=user("What is the answer?"), max_completion_tokens=100,
                    response_format={"type": "json_schema", "json_schema": schema})
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content)["answer"], int), answer
    right("an answer keeps to a schema")


def helper(client: OpenAI) -> None:
    """`client.chat.completions.stream()`, which joins the pieces itself; it was in beta before version 2."""
    chat = client.chat.completions if hasattr(client.chat.completions, "stream") else client.beta.chat.completions
    with chat.stream(model=MODEL, messages=user("a b c"), logprobs=True, max_completion_tokens=4) as stream:
        kinds = [event.type for event in stream]
        try:
            says(stream.get_final_completion().choices[0].message.content, "a b c")
        except openai.LengthFinishReasonError:
            assert REAL, "an answer that is not cut off"
    assert "content.delta" in kinds and "content.done" in kinds, kinds
    right("the client's own stream helper joins the pieces")


def completions(client: OpenAI) -> None:
    create = client.completions.create
    answer = create(model=MODEL, prompt=["a b", "c"], max_tokens=3, logprobs=1, echo=True)
    assert answer.object == "text_completion" and [choice.index for choice in answer.choices] == [0, 1], answer
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset), logprobs
    assert answer.choices[0].text.startswith("a b"), answer
    pieces = list(create(model=MODEL, prompt="x y z", max_tokens=3, stream=True))
    says("".join(piece.choices[0].text for piece in pieces), "x y z")
    assert pieces[-1].choices[0].finish_reason == "length", pieces[-1]
    right("texts are gone on with, at once and in pieces")


def embeddings(client: OpenAI) -> None:
    for model in ("encoder", MODEL):
        packed = client.embeddings.create(model=model, input=["a b", "c"])
        plain = client.embeddings.create(model=model, input=["a b", "c"], encoding_format="float")
        for one, other in zip(packed.data, plain.data):
            assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding)) < 1e-6
            assert abs(sum(number * number for number in one.embedding) - 1) < 1e-4
        assert packed.usage.prompt_tokens > 0, packed
    right("vectors come packed or plain, and have length 1")


def refusals(client: OpenAI) -> None:
    create = client.chat.completions.create
    refused(400, lambda: create(model="encoder", messages=user("a")), param="model", type="invalid_request_error")
    refused(404, lambda: create(model="org/nothing", messages=user("a")), param="model", code="not_found")
    refused(400, lambda: create(model=MODEL, messages=user("a"), temperature=3), param="temperature")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    refused(400, lambda: create(model=MODEL, messages=user("a"), tools=[tool]), param="tools")
    refused(400, lambda: create(model=MODEL, messages=user("a"), extra_body={"topk": 3}), param="topk")
    create(model=MODEL, messages=user("a"), user="me", metadata={"a": "b"}, store=False, extra_body={"top_k": 3},
           max_tokens=2)
    right("what is refused is refused with its field, and what has no effect is let pass")

    if not REAL:
        try:
            list(create(model=MODEL, messages=user("a <broken>"), stream=True))
        except openai.APIError as error:
            assert "out of memory" in str(error) and error.code == "unavailable", error
        else:
            raise AssertionError("a stream that broke off ended well")
        right("a stream that breaks off raises its error")


def main() -> None:
    client = OpenAI(base_url=sys.argv[1], api_key="any", max_retries=0)
    chats(client)
    helper(client)
    completions(client)
    embeddings(client)
    refusals(client)
    print("ok")


if __name__ == "__main__":
    main()
