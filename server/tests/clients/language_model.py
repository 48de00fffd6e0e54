"""Tunes a language model with the official `openai` client, unmodified, and talks with it, as the cookbook does.

usage: language_model.py BASE_URL; prints one line for each thing that was found to be right, `ok` at the end.
The server has a base model `llama` and a real trainer.
"""

import csv
import io
import json
import sys
import time

import openai
from openai import OpenAI

TAUGHT = {"sky?": "blue", "grass?": "green", "snow?": "white", "coal?": "black"}
HYPERPARAMETERS = {"n_epochs": 30, "batch_size": 4, "learning_rate": 2e-2, "chat_template": "chatml"}


def right(what: str) -> None:
    print(f"{openai.__version__}: {what}", flush=True)


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def upload(client: OpenAI, chats: list) -> openai.types.FileObject:
    text = "".join(json.dumps(line) + "\n" for line in chats)
    file = client.files.create(file=("colours.jsonl", text.encode()), purpose="fine-tune")
    return client.files.wait_for_processing(file.id, poll_interval=0.1)


def tune(client: OpenAI) -> tuple:
    rows = [chat(question, answer) for question, answer in TAUGHT.items()]
    wrong = upload(client, [*rows, {"messages": [{"role": "wizard", "content": "?"}]}])
    problem = wrong.report["chat"]["problems"]["listed"][0]
    assert problem["line"]["first"] == 5 and problem["column"] == "messages[0].role", wrong
    try:
        client.fine_tuning.jobs.create(model="llama", training_file=wrong.id)
    except openai.BadRequestError as error:
        assert "line 5" in str(error) and "wizard" in str(error), error
    else:
        raise AssertionError("a job on a chat with an unknown role was made")
    right("a chat with an unknown role is told by its line, and no job is made of it")

    train, held = upload(client, rows * 3), upload(client, rows)
    jobs = client.fine_tuning.jobs
    job = jobs.create(model="llama", training_file=train.id, validation_file=held.id, suffix="colours", seed=1,
                      method={"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}})
    assert job.status in ("validating_files", "queued", "running") and job.method.type == "supervised", job
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.2)
        job = jobs.retrieve(job.id)
    assert job.status == "succeeded" and job.trained_tokens > 0 and job.error is None, job
    events = list(jobs.list_events(job.id, limit=100))
    losses = [event.data["train_loss"] for event in reversed(events) if event.type == "metrics" and "train_loss" in event.data]
    assert len(losses) == 90 and losses[-1] < 0.1 < losses[0], losses
    right("a job on chats is made, polled to its end, and its events have falling losses")

    table = list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).read().decode())))
    assert len({row["step"] for row in table}) == 90, table[:3]
    checkpoints = list(jobs.checkpoints.list(job.id))
    assert checkpoints and checkpoints[0].fine_tuned_model_checkpoint.startswith("ft:llama:luthier:colours:"), checkpoints
    right("it has a table of results and checkpoints")
    return job.fine_tuned_model, checkpoints[0].fine_tuned_model_checkpoint


def talk(client: OpenAI, tuned: str, checkpoint: str) -> None:
    create = client.chat.completions.create
    for question, answer in TAUGHT.items():
        found = create(model=tuned, messages=chat(question, "")["messages"][:1], temperature=0, max_completion_tokens=24)
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == (answer, "stop"), found
    right("the tuned model says what it was taught, and ends there")

    asked = chat("snow?", "")["messages"][:1]
    pieces = list(create(model=tuned, messages=asked, temperature=0, max_tokens=24, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "white", pieces
    assert create(model=checkpoint, messages=asked, temperature=0, max_tokens=24).choices[0].message.content == "white"
    base = create(model="llama", messages=asked, temperature=0, max_tokens=24, extra_body={"chat_template": "chatml"})
    assert base.choices[0].message.content != "white", base
    right("it does so in a stream, as a checkpoint does; its base does not")


def main() -> None:
    client = OpenAI(base_url=sys.argv[1], api_key="any", max_retries=0)
    talk(client, *tune(client))
    print("ok")


if __name__ == "__main__":
    main()
