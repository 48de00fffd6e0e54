//! Names, numbers and devices.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, flag, named, word};

pub(super) const SETTINGS: &[Setting] = &[
    field("suffix", "Part of the model's name", "The model is called ft:BASE:luthier:THIS:….", Kind::Text)
        .empty("none"),
    field(
        "resources.device",
        "Device",
        "Auto takes a GPU where the trainer has one.",
        Kind::Choice(&[("auto", "Auto"), ("cpu", "CPU"), ("cuda", "GPU (CUDA)")]),
    ),
    field("resources.threads", "CPU threads", "0 for all cores.", Kind::Number),
    field(
        "precision",
        "Precision",
        "The numbers that training computes with. Auto takes bf16 with fp32 weights where the processor or GPU multiplies \
         bf16, fp16 with a scaled loss on older GPUs, fp32 elsewhere. Evaluation is always in fp32, with the weights as \
         they are downloaded.",
        Kind::Choice(&[
            ("auto", "Auto"),
            ("fp32", "fp32"),
            ("tf32", "tf32 (GPU)"),
            ("bf16", "bf16, fp32 weights"),
            ("bf16_pure", "bf16 throughout"),
            ("fp16", "fp16, fp32 weights (GPU)"),
        ]),
    ),
    field(
        "gradient_checkpointing",
        "Gradient checkpointing",
        "Layers are computed again in the backward pass: less memory, about a third more time.",
        Kind::Flag,
    ),
    field(
        "deterministic",
        "Deterministic on a GPU",
        "Bit-equal repeats, at some cost in speed; a CPU is always so.",
        Kind::Flag,
    ),
    field("priority", "Priority", "Higher ones start first.", Kind::Number),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let training = &spec.training;
    named([
        ("resources.device", word(spec.resources.device)),
        ("resources.threads", spec.resources.threads.to_string()),
        ("precision", training.precision.name().to_owned()),
        ("gradient_checkpointing", flag(training.gradient_checkpointing)),
        ("deterministic", flag(training.deterministic)),
        ("priority", "0".to_owned()),
    ])
}
