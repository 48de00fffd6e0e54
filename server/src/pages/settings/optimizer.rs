//! The update rule.

use serde_json::{Map, Value, json};
use store::spec::{JobSpec, Optimizer};

use super::{Kind, Setting, Values, field, flag, named, word};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "optimizer.name",
        "Optimizer",
        "The update rule, as torch.optim defines it; Lion as its paper, Adafactor as transformers.",
        Kind::Choice(&[
            ("adamw", "AdamW"),
            ("adam", "Adam"),
            ("sgd", "SGD"),
            ("rmsprop", "RMSprop"),
            ("lion", "Lion"),
            ("adafactor", "Adafactor"),
            ("muon", "Muon, AdamW beside it"),
            ("adamw_8bit", "AdamW, 8-bit state"),
            ("sparse_adam", "SparseAdam, AdamW beside it"),
        ]),
    ),
    field(
        "weight_decay",
        "Weight decay",
        "Pulls weights towards 0; biases and norms are spared.",
        Kind::Number,
    ),
    field("optimizer.beta1", "Beta 1", "Decay of the average of the gradient.", Kind::Number)
        .when("optimizer.name=adamw,adam,muon,adamw_8bit,sparse_adam"),
    field("optimizer.beta2", "Beta 2", "Decay of the average of its square.", Kind::Number)
        .when("optimizer.name=adamw,adam,muon,adamw_8bit,sparse_adam"),
    field("optimizer.lion_beta1", "Beta 1", "Share of the average in the direction of a step.", Kind::Number)
        .when("optimizer.name=lion"),
    field("optimizer.lion_beta2", "Beta 2", "Decay of the average of the gradient.", Kind::Number)
        .when("optimizer.name=lion"),
    field("optimizer.alpha", "Alpha", "Decay of the average of the squared gradient.", Kind::Number)
        .when("optimizer.name=rmsprop"),
    field("optimizer.eps", "Epsilon", "Added to the denominator.", Kind::Number)
        .when("optimizer.name=adamw,adam,rmsprop,muon,adamw_8bit,sparse_adam"),
    field("optimizer.amsgrad", "AMSGrad", "Divides by the largest average of squares so far.", Kind::Flag)
        .when("optimizer.name=adamw,adam"),
    field("optimizer.momentum", "Momentum", "Share of the last update that is kept.", Kind::Number)
        .when("optimizer.name=sgd,rmsprop"),
    field("optimizer.dampening", "Dampening", "Weakens the gradient in the momentum buffer.", Kind::Number)
        .when("optimizer.name=sgd"),
    field(
        "optimizer.nesterov",
        "Nesterov momentum",
        "Looks ahead along the momentum; needs momentum above 0 and no dampening.",
        Kind::Flag,
    )
    .when("optimizer.name=sgd"),
    field("optimizer.centered", "Centered", "The square is taken around the average gradient.", Kind::Flag)
        .when("optimizer.name=rmsprop"),
    field(
        "optimizer.relative_step",
        "Rate of its own",
        "The rate falls with the root of the step; learning rate and schedule are not looked at.",
        Kind::Flag,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.warmup_init",
        "Slow start",
        "That rate begins near 0; needs a rate of its own.",
        Kind::Flag,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.scale_parameter",
        "Scale by size",
        "A step is a share of the size of what it moves.",
        Kind::Flag,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.clip_threshold",
        "Largest update",
        "Root mean square that an update may have, before the rate.",
        Kind::Number,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.decay_rate",
        "Decay rate",
        "Exponent of the decay of the averages of squares.",
        Kind::Number,
    )
    .when("optimizer.name=adafactor"),
    field("optimizer.update_beta1", "Beta 1 of updates", "Decay of an average of the updates.", Kind::Number)
        .when("optimizer.name=adafactor")
        .empty("no average"),
    field("optimizer.eps1", "Epsilon of squares", "Added to the squared gradient.", Kind::Number)
        .when("optimizer.name=adafactor"),
    field("optimizer.eps2", "Smallest size", "What a parameter's size counts for at least.", Kind::Number)
        .when("optimizer.name=adafactor"),
    field(
        "optimizer.muon_momentum",
        "Momentum",
        "Decay of the average of a matrix's gradient.",
        Kind::Number,
    )
    .when("optimizer.name=muon"),
    field("optimizer.muon_nesterov", "Nesterov momentum", "Looks ahead along the momentum.", Kind::Flag)
        .when("optimizer.name=muon"),
    field("optimizer.ns_steps", "Newton–Schulz steps", "Rounds of making a matrix orthogonal.", Kind::Number)
        .when("optimizer.name=muon"),
    field(
        "optimizer.adjust_lr",
        "Rate by shape",
        "How the learning rate depends on a matrix's shape. With AdamW's size, AdamW's learning rates suit.",
        Kind::Choice(&[("original", "As first published"), ("match_rms_adamw", "AdamW's size")]),
    )
    .when("optimizer.name=muon"),
    field(
        "optimizer.adamw_lr_scale",
        "AdamW's share",
        "Share of the learning rate for embeddings, head, biases and norms.",
        Kind::Number,
    )
    .when("optimizer.name=muon"),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let mut values = values_of(&spec.training.optimizer);
    values.extend(named([("weight_decay", setting(spec.training.weight_decay))]));
    values
}

/// Those of a rule.
pub(super) fn values_of(optimizer: &Optimizer) -> Values {
    // Those of the other rules are there too: the form shows them once the rule is changed.
    let mut values: Values = [
        ("beta1", "0.9"),
        ("beta2", "0.999"),
        ("lion_beta1", "0.9"),
        ("lion_beta2", "0.99"),
        ("alpha", "0.99"),
        ("eps", "1e-8"),
        ("amsgrad", ""),
        ("momentum", "0"),
        ("dampening", "0"),
        ("nesterov", ""),
        ("centered", ""),
        ("relative_step", "true"),
        ("warmup_init", ""),
        ("scale_parameter", "true"),
        ("clip_threshold", "1"),
        ("decay_rate", "-0.8"),
        ("update_beta1", ""),
        ("eps1", "1e-30"),
        ("eps2", "0.001"),
        ("muon_momentum", "0.95"),
        ("muon_nesterov", "true"),
        ("ns_steps", "5"),
        ("adjust_lr", "original"),
        ("adamw_lr_scale", "1"),
    ]
    .map(|(name, value)| (format!("optimizer.{name}"), value.to_owned()))
    .into();
    let mut put = |name: &str, value: String| values.insert(format!("optimizer.{name}"), value);
    let tagged = serde_json::to_value(optimizer).unwrap_or_default();
    put("name", tagged["name"].as_str().unwrap_or_default().to_owned());
    match optimizer {
        Optimizer::Sgd { momentum, dampening, nesterov } => {
            put("momentum", setting(*momentum));
            put("dampening", setting(*dampening));
            put("nesterov", flag(*nesterov));
        }
        Optimizer::Rmsprop { alpha, eps, momentum, centered } => {
            put("alpha", setting(*alpha));
            put("eps", setting(*eps));
            put("momentum", setting(*momentum));
            put("centered", flag(*centered));
        }
        Optimizer::Adafactor {
            eps,
            clip_threshold,
            decay_rate,
            beta1,
            scale_parameter,
            relative_step,
            warmup_init,
        } => {
            put("eps1", setting(eps.0));
            put("eps2", setting(eps.1));
            put("clip_threshold", setting(*clip_threshold));
            put("decay_rate", setting(*decay_rate));
            put("update_beta1", beta1.map(setting).unwrap_or_default());
            put("scale_parameter", flag(*scale_parameter));
            put("relative_step", flag(*relative_step));
            put("warmup_init", flag(*warmup_init));
        }
        Optimizer::Lion { betas } => {
            put("lion_beta1", setting(betas.0));
            put("lion_beta2", setting(betas.1));
        }
        Optimizer::Adam { betas, eps, amsgrad } | Optimizer::Adamw { betas, eps, amsgrad } => {
            put("beta1", setting(betas.0));
            put("beta2", setting(betas.1));
            put("eps", setting(*eps));
            put("amsgrad", flag(*amsgrad));
        }
        Optimizer::Adamw8bit { betas, eps } | Optimizer::SparseAdam { betas, eps } => {
            put("beta1", setting(betas.0));
            put("beta2", setting(betas.1));
            put("eps", setting(*eps));
        }
        Optimizer::Muon { momentum, nesterov, ns_steps, adjust_lr, adamw_lr_scale, betas, eps } => {
            put("muon_momentum", setting(*momentum));
            put("muon_nesterov", flag(*nesterov));
            put("ns_steps", ns_steps.to_string());
            put("adjust_lr", word(*adjust_lr));
            put("adamw_lr_scale", setting(*adamw_lr_scale));
            put("beta1", setting(betas.0));
            put("beta2", setting(betas.1));
            put("eps", setting(*eps));
        }
    }
    values
}

/// Pairs of one rule, and names that two rules have with another default each.
pub(super) fn join(fields: &mut Map<String, Value>) {
    let Some(optimizer) = fields.get_mut("optimizer").and_then(Value::as_object_mut) else { return };
    for (first, second, name) in PAIRS {
        if let (Some(first), Some(second)) = (optimizer.remove(first), optimizer.remove(second)) {
            optimizer.insert(name.to_owned(), json!([first, second]));
        }
    }
    for (input, name) in OWN_INPUTS {
        if let Some(value) = optimizer.remove(input) {
            optimizer.insert(name.to_owned(), value);
        }
    }
}

/// Two inputs that are a pair in the request.
const PAIRS: [(&str, &str, &str); 3] =
    [("beta1", "beta2", "betas"), ("lion_beta1", "lion_beta2", "betas"), ("eps1", "eps2", "eps")];

/// Inputs of one rule for a setting that bears another rule's name in the request.
const OWN_INPUTS: [(&str, &str); 3] =
    [("update_beta1", "beta1"), ("muon_momentum", "momentum"), ("muon_nesterov", "nesterov")];
