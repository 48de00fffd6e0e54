"""Drives files and jobs with the official `openai` client, unmodified, as its users do.

usage: fine_tuning.py BASE_URL; prints one line for each thing that was found to be right, `ok` at the end.
The other side of the test plays the trainer: it runs each job that is queued, and holds those whose metadata say so.
"""

import io
import sys
import tempfile
import pathlib

import openai
from openai import OpenAI, Stream
from openai.types.fine_tuning import FineTuningJobEvent

ROWS = "".join(f"text number {n},{'good' if n % 2 else 'bad'}\n" for n in range(40))
TABLE = f"text,label\n{ROWS}".encode()


def right(what: str) -> None:
    print(f"{openai.__version__}: {what}", flush=True)


def refused(kind: type, status: int, call, **fields) -> openai.APIStatusError:
    try:
        call()
    except kind as error:
        assert error.status_code == status, error
        assert error.request_id, "an answer without x-request-id"
        for name, value in fields.items():
            assert getattr(error, name) == value, (name, getattr(error, name), error)
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def files(client: OpenAI) -> str:
    folder = pathlib.Path(tempfile.mkdtemp())
    path = folder / "reviews.csv"
    path.write_bytes(TABLE)
    made = client.files.create(file=path.open("rb"), purpose="fine-tune")
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(TABLE), "reviews.csv", "fine-tune"), made
    waited = client.files.wait_for_processing(made.id)
    assert waited.status == "processed", waited
    assert client.files.retrieve(made.id) == waited
    assert client.files.content(made.id).read() == TABLE
    right("a file comes back byte for byte")

    bad = client.files.create(file=("bad.csv", io.BytesIO(b"text,label\na,b,c\n")), purpose="fine-tune")
    bad = client.files.wait_for_processing(bad.id)
    assert bad.status == "error" and "line 2" in bad.status_details, bad
    right("a file that cannot be used says why")

    expiring = client.files.create(file=("e.csv", TABLE), purpose="fine-tune",
                                   expires_after={"anchor": "created_at", "seconds": 3600})
    assert expiring.expires_at - expiring.created_at in (3599, 3600, 3601), expiring
    listed = [file.id for file in client.files.list(limit=1)]
    assert listed[:3] == [expiring.id, bad.id, made.id], listed
    assert client.files.delete(bad.id).deleted
    refused(openai.NotFoundError, 404, lambda: client.files.retrieve(bad.id), code="not_found")
    right("files are listed page by page, deleted, and expire")
    return made.id


def job(client: OpenAI, file: str) -> None:
    made = client.fine_tuning.jobs.create(
        model="tiny", training_file=file, suffix="client", seed=7, metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
        extra_body={"task": "text-classification", "columns": {"text": "text", "label": "label"}, "name": "by a client"})
    assert made.object == "fine_tuning.job" and made.id.startswith("ftjob-"), made
    assert made.seed == 7 and made.hyperparameters.batch_size == 8 and made.hyperparameters.n_epochs == 2, made
    assert made.method.supervised.hyperparameters.batch_size == 8, made
    assert made.columns == {"text": "text", "label": "label"} and made.task == "text-classification", made
    assert made.result_files == [] and made.fine_tuned_model is None and made.error is None, made
    right("a job is made, our own fields beside theirs")

    losses, steps, messages = [], [], []
    stream = client.get(f"/fine_tuning/jobs/{made.id}/events", cast_to=FineTuningJobEvent, stream=True,
                        stream_cls=Stream[FineTuningJobEvent], options={"params": {"stream": "true"}})
    for event in stream:
        messages.append(event)
        if event.type == "metrics" and "train_loss" in event.data:
            losses.append(event.data["train_loss"])
            steps.append(event.data["step"])
    assert steps == list(range(1, 11)) and losses[0] == 1.0, (steps, losses)
    right("a stream brings every event once and ends with the job")

    done = client.fine_tuning.jobs.retrieve(made.id)
    assert done.status == "succeeded" and done.fine_tuned_model.startswith("ft:tiny:luthier:client:"), done
    assert done.metrics["accuracy"] == 0.9 and done.finished_at >= done.created_at, done
    paged = [event.id for event in client.fine_tuning.jobs.list_events(made.id, limit=3)]
    assert paged == [event.id for event in reversed(messages)], (paged, messages)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(made.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [10, 5], checkpoints
    assert checkpoints[0].metrics.valid_loss == 0.5 and checkpoints[0].fine_tuning_job_id == made.id, checkpoints
    curves = client.files.content(done.result_files[0]).read().decode()
    assert curves.startswith("step,"), curves
    results = [file for file in client.files.list(purpose="fine-tune-results") if file.id == done.result_files[0]]
    assert [(file.purpose, file.filename, file.status) for file in results] == [
        ("fine-tune-results", "step_metrics.csv", "processed")], results
    right("a finished job has a model, checkpoints, events page by page and curves")

    for name in (done.fine_tuned_model, checkpoints[1].fine_tuned_model_checkpoint):
        assert client.models.retrieve(name).id == name
    ids = [model.id for model in client.models.list()]
    assert "tiny" in ids and done.fine_tuned_model in ids, ids
    again = client.fine_tuning.jobs.create(model=done.fine_tuned_model, training_file=file, metadata={"team": "b"})
    assert again.model == done.fine_tuned_model
    client.fine_tuning.jobs.cancel(again.id)
    assert client.models.delete(checkpoints[1].fine_tuned_model_checkpoint).deleted
    refused(openai.NotFoundError, 404, lambda: client.models.retrieve("org/not-here"), code="not_found")
    right("tuned models and checkpoints are models by name")


def orders(client: OpenAI, file: str) -> None:
    jobs = client.fine_tuning.jobs
    made = jobs.create(model="tiny", training_file=file, metadata={"hold": "yes"})
    assert jobs.pause(made.id).status == "paused"
    assert jobs.pause(made.id).status == "paused"
    assert jobs.resume(made.id).status == "queued"
    assert jobs.cancel(made.id).status == "cancelled"
    assert jobs.cancel(made.id).status == "cancelled"
    refused(openai.BadRequestError, 400, lambda: jobs.resume(made.id), code="job_has_ended")
    right("a job is paused, resumed and cancelled, each as often as one likes")

    found = [job.id for job in jobs.list(extra_query={"metadata[hold]": "yes"})]
    assert found == [made.id], found
    everything = [job.id for job in jobs.list(limit=1)]
    assert everything[0] == made.id and len(everything) == len(set(everything)) == 3, everything
    right("jobs are listed page by page and by metadata")


def refusals(client: OpenAI, file: str) -> None:
    create = client.fine_tuning.jobs.create
    refused(openai.NotFoundError, 404, lambda: create(model="tiny", training_file="file-gone"), param="training_file")
    refused(openai.NotFoundError, 404, lambda: create(model="gone", training_file=file), param="model")
    error = refused(openai.BadRequestError, 400,
                    lambda: create(model="tiny", training_file=file, extra_body={"columns": {"text": "txt"}}),
                    param="columns.text", code="unknown_column", type="invalid_request_error")
    assert "text, label" in str(error), error
    refused(openai.BadRequestError, 400,
            lambda: create(model="tiny", training_file=file, hyperparameters={"batch_size": 0}),
            param="hyperparameters.batch_size")
    refused(openai.NotFoundError, 404, lambda: client.fine_tuning.jobs.retrieve("ftjob-gone"))
    right("what is refused is refused with code, param and type")


def main() -> None:
    # An attempt that is refused must not be made again: with retries on, a wrong status would show as a delay and a second job.
    client = OpenAI(base_url=sys.argv[1], api_key="any", max_retries=2)
    file = files(client)
    job(client, file)
    orders(client, file)
    refusals(client, file)
    print("ok")


if __name__ == "__main__":
    main()
