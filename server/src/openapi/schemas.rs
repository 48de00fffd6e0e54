//! Shapes of requests and answers: a line for each field.

use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, Schema};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Type};

/// A field: name, kind, what it is. A kind that ends in `!` is needed in a request.
type Field = (&'static str, &'static str, &'static str);

/// Every shape by name.
pub fn all() -> Vec<(String, RefOr<Schema>)> {
    let mut all: Vec<_> =
        SHAPES.iter().map(|(name, about, fields)| ((*name).to_owned(), object(about, fields))).collect();
    for item in ["File", "Job", "Event", "Checkpoint", "Model", "Export", "Agent"] {
        all.push((format!("{item}List"), list(item)));
    }
    all
}

#[rustfmt::skip]
const SHAPES: &[(&str, &str, &[Field])] = &[
    ("Error", "Why a request was refused or failed", &[
        ("error", "object", "`message` for people, `type`, `param` (the field it is about) and `code` for programs"),
    ]),
    ("Deleted", "What was deleted", &[
        ("id", "text", "Its id"), ("object", "text", "What it was"), ("deleted", "flag", "true"),
    ]),
    ("CreateFile", "An upload", &[
        ("file", "bytes!", "The content: CSV, TSV, JSON Lines or a JSON array"),
        ("purpose", "text", "`fine-tune` (the default), or one of OpenAI's others"),
        ("expires_after[anchor]", "text", "`created_at`"),
        ("expires_after[seconds]", "whole", "3600 to 2592000"),
    ]),
    ("File", "A file", &[
        ("id", "text", "`file-…`"), ("object", "text", "`file`"), ("bytes", "whole", "Size"),
        ("created_at", "time", "When it came"), ("expires_at", "time", "When it is deleted"),
        ("filename", "text", "Its sender's name for it"), ("purpose", "text", "What it is for"),
        ("status", "text", "`processed` or `error`"), ("status_details", "text", "Why it cannot be used"),
        ("sha256", "text", "Hash of its content"), ("report", "object", "Format, columns, rows, problems by line, preview; `chat` where the rows are there for a language model: `layout`, `rows`, `turns`, `counted_turns`, `problems` by line and field, `notices`, `preview`; `tags` where they are words with tags: `summary` (`rows`, `words`, `scheme`, `tags`, `types`, `notices`) and `problems` by line"),
    ]),
    ("CreateJob", "A fine-tune to start, or to run again from a `manifest`", &[
        ("model", "text!", "Id of a base model, a tuned model or a checkpoint"),
        ("training_file", "text!", "Id of a file"),
        ("validation_file", "text", "Id of a file to evaluate on; without one, `validation_split` holds rows out"),
        ("test_file", "text", "Id of a file that is evaluated once, at the end"),
        ("task", "text", "`text-classification`, `text-generation`, `sentence-similarity`, `question-answering`, `token-classification`, `translation`, `summarization` or `text2text-generation`; what the model, or the roles in `columns`, are there for when left out"),
        ("problem_type", "text", "`single_label`, `multi_label` or `regression`; told from the labels when left out"),
        ("columns", "object", "Role → column: `text`, `text_pair`, `label`; of vectors `anchor`, `positive`, `negative` (one or a list), or `text1`, `text2`, `score`; of questions `context`, `question`, `answers`, `answer_start`, `is_impossible`; of tags `tokens`, `tags`, or `text`, `entities`; told from their names when left out; none in text generation, whose rows say by their keys what they are"),
        ("validation_split", "object", "`fraction`, `test_fraction`, `seed`, `stratify` (by class)"),
        ("method", "object", "`{\"type\": \"supervised\", \"supervised\": {\"hyperparameters\": …}}`"),
        ("hyperparameters", "object", "The older place: `n_epochs`, `batch_size`, `learning_rate_multiplier` (each a number or \"auto\"), `learning_rate`, `max_steps`, `optimizer`, `lr_scheduler`, `warmup_ratio`, `weight_decay`, `freeze`, `lora` (`true`, or `rank`, `alpha`, `dropout`, `targets`, `rslora`, `dora`, `quantization`, `merge`), `early_stopping`, `precision` (`auto`, `fp32`, `tf32`, `bf16`, `bf16_pure` or `fp16`: `auto` is bf16 with fp32 weights where the device multiplies bf16, fp16 on older GPUs, else fp32), `gradient_checkpointing`, and for text generation `loss_on` (`assistant` or `all`), `chat_template` (Jinja or a name; the checkpoint's own when left out) and `samples` (`false`, or `prompts`, `rows`, `max_tokens`, `temperature`, `seed`: what is asked before the first step and at every evaluation, told in events of the kind `samples`), …"),
        ("seed", "whole", "0 to 2147483647; the same seed gives the same weights"),
        ("suffix", "text", "Part of the tuned model's name, up to 64 characters"),
        ("name", "text", "A name for people"),
        ("metadata", "object", "Up to 16 pairs of texts"),
        ("resources", "object", "`device` (`auto`, `cpu`, `cuda`), `devices`, `tensor_parallel`, `pipeline_stages`, `shard_optimizer`, `threads`"),
        ("priority", "whole", "Higher ones start first"),
        ("dry_run", "flag", "true: everything is checked and nothing is made; the answer is a DryRun"),
        ("manifest", "object", "A job's `manifest`, in place of everything but suffix, name, metadata and priority"),
    ]),
    ("Job", "A fine-tune", &[
        ("id", "text", "`ftjob-…`"), ("object", "text", "`fine_tuning.job`"), ("created_at", "time", "When it was asked for"),
        ("model", "text", "What it starts from"), ("training_file", "text", "Rows to learn from"),
        ("validation_file", "text", "Rows to evaluate on"), ("status", "text", "`queued`, `running`, `paused`, `succeeded`, `failed` or `cancelled`"),
        ("fine_tuned_model", "text", "The model, once there is one"), ("finished_at", "time", "When it ended"),
        ("estimated_finish", "time", "When it will end at the present pace"), ("trained_tokens", "whole", "Tokens that gradients were computed for"),
        ("hyperparameters", "object", "OpenAI's three"), ("method", "object", "All settings"), ("seed", "whole", "The seed, chosen or given"),
        ("organization_id", "text", "`luthier`"), ("result_files", "list", "Ids of the curves as CSV"),
        ("error", "object", "Why it failed: `code`, `message`, `param`, `cause`, `step`, `log`, `attempt`"),
        ("integrations", "list", "None"), ("metadata", "object", "Pairs of the person's own"), ("user_provided_suffix", "text", "Part of the model's name"),
        ("name", "text", "A name for people"), ("task", "text", "What is learned"), ("problem_type", "text", "What a label is"),
        ("columns", "object", "Role → column; null in text generation"), ("validation_split", "object", "How rows are held out"), ("test_file", "text", "Rows of the final test"),
        ("resources", "object", "What it may use"), ("priority", "whole", "Higher ones start first"),
        ("missing_devices", "whole", "Devices that a waiting job lacks even if all trainers were free"),
        ("phase", "text", "leased, loading, training, evaluating, exporting, cancelling, pausing"),
        ("progress", "object", "`step`, `total_steps`, `epoch`, `eta_seconds`, speeds, memory"), ("metrics", "object", "The latest evaluation, or the result's"),
        ("steps", "whole", "Optimizer steps done at the end"), ("best_step", "whole", "Step of the weights that became the model"),
        ("attempt", "whole", "Claims so far"), ("max_attempts", "whole", "Failures by our fault after which it is given up"), ("errors", "list", "One for each attempt that ended badly"),
        ("agent", "text", "Who runs or ran it"), ("device", "text", "What on"), ("started_at", "time", "When it was first claimed"),
        ("last_event_at", "time", "When the trainer was last heard of"), ("manifest", "object", "Hashes of data, base and settings, versions, seed, hardware: it can be run again from this"),
    ]),
    ("DryRun", "What a job would take, told without making it", &[
        ("object", "text", "`fine_tuning.job.dry_run`"), ("model", "text", "What it would start from"),
        ("task", "text", "What would be learned"), ("problem_type", "text", "What a label is"), ("columns", "object", "Role → column"),
        ("rows", "object", "`training` rows, `sampled` ones that were tokenized, their `mean_tokens` and `longest_tokens`; in text generation `truncated_share` of the rows, `counted_share` of their tokens, and `left_out_share` of the rows, which have nothing to learn"),
        ("memory", "object", "Bytes: `weights`, `copies` in fewer bits, `gradients`, `optimizer`, `activations` of the greatest batch, passing `buffers`, `runtime`, the `peak` of a process, `processes`, and `total` of all; precision auto is taken for what it became in the last run, else for fp32"),
        ("steps", "whole", "Optimizer steps"), ("steps_per_epoch", "whole", "Optimizer steps of an epoch"), ("tokens_per_step", "whole", "Tokens of a step, on average"),
        ("flops_per_step", "number", "Floating-point operations of a step"),
        ("seconds_per_step", "number", "By the speed of the newest finished job on the same kind of device; null without one"), ("speed_of", "text", "That job"),
        ("fits", "flag", "Whether a live trainer has the memory; null where that is not known"), ("agents", "list", "Live trainers: `name`, `device`, `memory_bytes`, `fits`"),
        ("suggestion", "object", "Where it does not fit, the first setting that would: `setting`, `param`, `total` bytes"), ("notes", "list", "What was guessed or is worth a look"),
    ]),
    ("Event", "Something that a job said", &[
        ("id", "text", "`ftevent-…`; sorts by time"), ("object", "text", "`fine_tuning.job.event`"), ("created_at", "time", "When"),
        ("level", "text", "`info`, `warn` or `error`"), ("message", "text", "A sentence"), ("type", "text", "`message` or `metrics`"),
        ("data", "object", "For `metrics`: `step`, `total_steps`, `train_loss`, `valid_loss`, and every metric by its name"),
        ("kind", "text", "phase, log, train, eval, test, examples, checkpoint, resume, result"), ("number", "whole", "From 1, without gaps"),
        ("attempt", "whole", "The attempt that it is from"), ("step", "whole", "Optimizer steps done"),
    ]),
    ("Checkpoint", "Weights of a step", &[
        ("id", "text", "`ftckpt_…`"), ("object", "text", "`fine_tuning.job.checkpoint`"), ("created_at", "time", "When"),
        ("fine_tuned_model_checkpoint", "text", "Its weights as a model by name"), ("fine_tuning_job_id", "text", "The job"),
        ("metrics", "object", "Its evaluation"), ("step_number", "whole", "Optimizer steps done"), ("best", "flag", "Whether it is the best one so far"),
        ("bytes", "whole", "Size"), ("available", "flag", "Whether the model of that name is still there"),
    ]),
    ("CreateModel", "A checkpoint in the format of Hugging Face transformers", &[
        ("id", "text", "1 to 96 characters out of A-Z a-z 0-9 . _ -; the folder's name when left out"),
        ("file", "bytes", "A zip, tar or tar.gz with config.json, safetensors and tokenizer.json"), ("files", "bytes", "The files one by one, with relative names, instead"),
    ]),
    ("Model", "A model", &[
        ("id", "text", "Its id"), ("object", "text", "`model`"), ("created", "time", "When it came"), ("owned_by", "text", "`luthier`"),
        ("kind", "text", "`base`, `tuned` or `checkpoint`"), ("task", "text", "`text-generation` for a language model, `sentence-similarity` for a model of vectors, `translation` or `text2text-generation` for one with encoder and decoder, else the task of its head, if it has one"), ("architecture", "text", "Class in transformers"),
        ("parameters", "whole", "Number of weights"), ("bytes", "whole", "Size of its files"), ("lineage", "object", "`base_model`, `job`, `step`"),
        ("metrics", "object", "Its evaluation"), ("report", "object", "What inspection found"), ("files", "list", "`path`, `bytes`, `sha256` of each"),
        ("loaded", "object", "Where it is kept loaded to answer: `device`, `context`, `memory_bytes`, `requests` at work, `idle_seconds`, `up_seconds`, and the `models` that share the process; null where it is not"),
    ]),
    ("CreateExport", "A model to be written in another format", &[
        ("format", "text!", "`safetensors` (a checkpoint folder; an adapter is merged into its base), `adapter` (PEFT's files alone, of a model that is one) or `gguf` (one file for llama.cpp, of a language model)"),
        ("kind", "text", "How numbers are kept: `f32`, `f16`, `bf16`; of a GGUF also `q8_0`, `q4_k_m`. f32 when left out, f16 of a GGUF; none of an adapter"),
    ]),
    ("Export", "A model in another format, or on the way there", &[
        ("id", "text", "`export-…`"), ("object", "text", "`model.export`"), ("created_at", "time", "When it was asked for"), ("model", "text", "What is exported"),
        ("format", "text", "`safetensors`, `adapter` or `gguf`"), ("kind", "text", "How numbers are kept"),
        ("status", "text", "`queued`, `running`, `succeeded`, `failed` or `cancelled`"), ("phase", "text", "What the trainer is at"), ("progress", "object", "`done` rows of `of`, while it is compared"),
        ("bytes", "whole", "Size of its files"), ("files", "list", "`path`, `bytes`, `sha256` of each"),
        ("certificate", "object", "What came of loading it again and comparing it with the model: `replayed` (which rows), `logits` (`largest_difference`, `relative`, `mean_divergence`, `equal_share`), `metrics` (`name`, `model`, `artifact`, `change`), `bytes`, `speed`, `texts`, `bounds` (`name`, `found`, `most`, `kept`), `reasons`, `notices`"),
        ("ready", "flag", "Whether all bounds of the certificate are kept; null before it is made"), ("error", "object", "Why it failed"),
        ("attempt", "whole", "How often it was begun"), ("agent", "text", "The trainer"), ("device", "text", "What it runs on"),
        ("started_at", "time", "When it began"), ("finished_at", "time", "When it ended"),
    ]),
    ("CreateChatCompletion", "A conversation to go on with; OpenAI's other fields that change nothing here are let pass", &[
        ("model", "text!", "Id of a language model: uploaded, tuned, or a checkpoint"),
        ("messages", "list!", "`role` (developer, system, user, assistant or tool) and `content` (a text, or parts of type text)"),
        ("max_completion_tokens", "whole", "Most tokens of an answer; to the end of the context when left out"), ("max_tokens", "whole", "The older name of it"),
        ("temperature", "number", "0 to 2; 1 when left out, 0 takes the likeliest token each time"), ("top_p", "number", "0 to 1: draws among the likeliest tokens that have this share together"),
        ("top_k", "whole", "Draws among so many tokens; 0 for all"), ("min_p", "number", "0 to 1: draws among tokens that are at least this share as likely as the likeliest"),
        ("repetition_penalty", "number", "Divides the logits of tokens that have occurred; 1 for none"), ("presence_penalty", "number", "-2 to 2"), ("frequency_penalty", "number", "-2 to 2"),
        ("logit_bias", "object", "Token id → -100 to 100"), ("n", "whole", "How many answers, up to 128"), ("stop", "list", "A text or up to 16, which end an answer and are no part of it"),
        ("seed", "whole", "The same gives the same answer of the same model on the same machine"),
        ("logprobs", "flag", "Whether the logarithm of each token's probability is told"), ("top_logprobs", "whole", "0 to 20: how many others are told with it"),
        ("response_format", "object", "`{\"type\": \"text\"}`, `json_object`, or `json_schema` with `json_schema.schema`, which the answer then keeps to"),
        ("chat_template", "text", "Name of a template or Jinja, in place of the one that the model was trained with or has"),
        ("tools", "list", "None: tool calls are not served yet"), ("tool_choice", "text", "`none` or `auto`"),
        ("stream", "flag", "Whether the answer comes in chunks"), ("stream_options", "object", "`include_usage`: a last chunk has the counts"),
    ]),
    ("ChatCompletion", "Answers of a chat", &[
        ("id", "text", "`chatcmpl-…`"), ("object", "text", "`chat.completion`, or `chat.completion.chunk`"), ("created", "time", "When"), ("model", "text", "Who answers"),
        ("system_fingerprint", "text", "The same for the same weights"),
        ("choices", "list", "`index`, `message` (`role`, `content`; a chunk has `delta`), `logprobs`, `finish_reason` (`stop` or `length`)"),
        ("usage", "object", "`prompt_tokens`, `completion_tokens`, `total_tokens`"),
    ]),
    ("CreateCompletion", "Texts to go on with. Besides these, every field of CreateChatCompletion that chooses tokens", &[
        ("model", "text!", "Id of a language model"), ("prompt", "text!", "A text, a list of texts, a list of token ids, or a list of lists of token ids"),
        ("max_tokens", "whole", "16 when left out; 0 is possible with `echo`"), ("echo", "flag", "Whether the prompt comes before the answer"),
        ("logprobs", "whole", "0 to 20: how many likely tokens are told with each one's own logarithm; none when left out"), ("best_of", "whole", "How many answers are made, of which the `n` likeliest are given"),
        ("n", "whole", "How many answers to each prompt"), ("stream", "flag", "Whether the answer comes in chunks"), ("stream_options", "object", "`include_usage`: a last chunk has the counts"),
    ]),
    ("Completion", "Answers to prompts", &[
        ("id", "text", "`cmpl-…`"), ("object", "text", "`text_completion`"), ("created", "time", "When"), ("model", "text", "Who answers"), ("system_fingerprint", "text", "The same for the same weights"),
        ("choices", "list", "`index` (prompt by prompt), `text`, `logprobs` (`tokens`, `token_logprobs`, `top_logprobs`, `text_offset`), `finish_reason`"),
        ("usage", "object", "`prompt_tokens`, `completion_tokens`, `total_tokens`"),
    ]),
    ("CreateEmbedding", "Texts to make vectors of", &[
        ("model", "text!", "Id of an encoder or a language model"), ("input", "text!", "As `prompt` of CreateCompletion; at most 2,048"),
        ("encoding_format", "text", "`float`, or `base64`: numbers of 32 bits, little end first"), ("dimensions", "whole", "The first numbers alone, at length 1 again; for models that were trained for it"),
    ]),
    ("EmbeddingList", "Vectors of length 1", &[
        ("object", "text", "`list`"), ("data", "list", "`object`, `index`, `embedding` of each input"), ("model", "text", "Who made them"), ("usage", "object", "`prompt_tokens`, `total_tokens`"),
    ]),
    ("CreatePrediction", "A question to a tuned classifier or tagger, or to a model that answers questions or writes one text from another", &[
        ("model", "text!", "Its id"), ("inputs", "list!", "Texts, or objects with `text` and `text_pair`; of a model that answers questions objects with `question` and `context`; at most 1,000"),
        ("source_prefix", "text", "Of a model that writes: put before each text; its job's when left out"), ("num_beams", "whole", "Of a model that writes: 1 to 16"),
        ("max_new_tokens", "whole", "Of a model that writes: tokens at most"), ("length_penalty", "number", "Of a model that writes: -10 to 10"),
        ("no_repeat_ngram_size", "whole", "Of a model that writes: so many tokens in a row are written once at most"), ("early_stopping", "flag", "Of a model that writes: ends as soon as there are as many whole texts as beams"),
        ("source_lang", "text", "Of a model that knows languages by a code"), ("target_lang", "text", "The same of what is written"), ("forced_bos_token", "text", "Of a model that writes: the first token"),
        ("aggregation", "text", "How a tagger's tokens become entities: `first` (a word has the tag of its first token; the usual) or `simple`, as transformers' pipeline"),
    ]),
    ("Prediction", "What a model says", &[
        ("object", "text", "`prediction`"), ("model", "text", "Its id"), ("task", "text", "Its task"), ("outputs", "list", "For each input `label`, `score` and `scores` by label; of a question `answer` (null for none), `score`, `start` and `end` in characters, `null_score`, `null_score_difference` and `candidates`; of a tagger `entities` (`start`, `end`, `text`, `label`, `score`; places count characters) and whether the text was `truncated`; `text` of a model that writes"),
    ]),
    ("Agent", "A trainer", &[
        ("id", "text", "`agent-…`"), ("object", "text", "`agent`"), ("name", "text", "Its name"), ("device", "text", "What it computes on"), ("cuda_devices", "whole", "CUDA devices"),
        ("devices", "whole", "Processes that it gives a job on a CPU"), ("address", "text", "Where trainers on other machines reach it"),
        ("threads", "whole", "CPU threads"), ("memory_bytes", "whole", "Memory of its machine"), ("version", "text", "Of the program"),
        ("unfit", "text", "Why it takes no jobs, if it takes none"), ("started_at", "time", "When it started"), ("last_seen_at", "time", "When it was last heard of"), ("running", "whole", "Jobs that it holds"),
    ]),
];

fn object(about: &str, fields: &[Field]) -> RefOr<Schema> {
    let mut object = ObjectBuilder::new().schema_type(Type::Object).description(Some(about));
    for (name, kind, about) in fields {
        object = object.property(*name, field(kind, about));
        if kind.ends_with('!') {
            object = object.required(*name);
        }
    }
    Schema::Object(object.build()).into()
}

fn field(kind: &str, about: &str) -> Schema {
    let plain = |kind| ObjectBuilder::new().schema_type(kind).description(Some(about));
    match kind.trim_end_matches('!') {
        "whole" => Schema::Object(plain(Type::Integer).build()),
        "time" => Schema::Object(
            plain(Type::Integer).description(Some(format!("{about}, in seconds since 1970"))).build(),
        ),
        "number" => Schema::Object(plain(Type::Number).build()),
        "flag" => Schema::Object(plain(Type::Boolean).build()),
        "list" => Schema::Array(
            ArrayBuilder::new().items(ObjectBuilder::new().build()).description(Some(about)).build(),
        ),
        "object" => Schema::Object(
            plain(Type::Object).additional_properties(Some(AdditionalProperties::FreeForm(true))).build(),
        ),
        "bytes" => Schema::Object(plain(Type::String).content_media_type("application/octet-stream").build()),
        _ => Schema::Object(plain(Type::String).build()),
    }
}

fn list(item: &str) -> RefOr<Schema> {
    let items =
        ArrayBuilder::new().items(Ref::from_schema_name(item)).description(Some("A part of the list"));
    let object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("A list; go on with `after` set to `last_id` until `has_more` is false"))
        .property("object", field("text", "`list`"))
        .property("data", Schema::Array(items.build()))
        .property("first_id", field("text", "Id of the first"))
        .property("last_id", field("text", "Id of the last"))
        .property("has_more", field("flag", "Whether there are more"));
    Schema::Object(object.build()).into()
}
