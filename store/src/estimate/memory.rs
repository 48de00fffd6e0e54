//! Bytes, part by part, and the most of them that stand at once.

use super::encoder_decoder::Sides;
use super::model::{Flow, Model, Parameter};
use super::{Estimate, Rows};
use crate::spec::{Optimizer, Precision, Training};

const FP32: u64 = 4;

/// The program with libtorch loaded, after its first products: measured, as `trainer/tests/it/estimate.rs` does.
const PROGRAM: u64 = 145_000_000;

/// Bytes of logits that stand at once (`native::cross_entropy`).
const CHUNK: u64 = 32 << 20;

/// What the tokenizer holds for each token of its vocabulary: measured.
const TOKEN: u64 = 1_400;

/// What is known of the machine that will train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What `auto` becomes there.
    pub auto: Precision,
}

impl Default for Machine {
    /// A processor without instructions for numbers of 16 bits.
    fn default() -> Self {
        Machine { auto: Precision::Fp32 }
    }
}

/// How numbers are kept.
#[derive(Clone, Copy)]
struct Bytes {
    /// Of what layers hand to each other.
    activation: u64,
    /// Whether matrices are kept in 16 bits.
    pure: bool,
    /// Whether layers have copies in 16 bits.
    copies: bool,
}

impl Bytes {
    fn of(precision: Precision, machine: Machine) -> Self {
        let settled = if precision == Precision::Auto { machine.auto } else { precision };
        let pure = settled == Precision::Bf16Pure;
        let copies = matches!(settled, Precision::Bf16 | Precision::Fp16);
        Bytes { activation: if pure || copies { 2 } else { FP32 }, pure, copies }
    }

    /// Bytes of a number of this parameter and of its gradient.
    fn parameter(self, parameter: &Parameter) -> u64 {
        if self.pure && parameter.is_low() { 2 } else { FP32 }
    }

    fn copy(self, parameter: &Parameter) -> u64 {
        // A matrix in 16 bits is its own copy.
        let needs = self.copies || (self.pure && parameter.shape.len() == 1);
        if needs && parameter.is_multiplied() { 2 * parameter.elements() } else { 0 }
    }
}

/// Puts the bytes into an estimate whose counts are there.
pub(super) fn fill(to: &mut Estimate, model: &Model, training: &Training, rows: &Rows, machine: Machine) {
    let bytes = Bytes::of(training.precision, machine);
    let trained = model.trained(training);
    let mut tables = Vec::new();
    for (parameter, trained) in model.parameters.iter().zip(&trained) {
        let own = bytes.parameter(parameter) * parameter.elements();
        match parameter.quantized_bytes(training) {
            Some(quantized) => to.weights += quantized,
            None => {
                to.weights += own;
                to.copies += bytes.copy(parameter);
            }
        }
        if *trained {
            to.optimizer += state_bytes(&training.optimizer, parameter);
            let tied =
                model.decoder.is_some_and(|sizes| sizes.tied) || model.both.is_some_and(|sizes| sizes.tied);
            if parameter.gives_rows() && !tied {
                tables.push(parameter);
            } else {
                to.gradients += own;
            }
        }
    }
    if to.processes > 1 {
        // The reducer's buckets.
        to.gradients *= 2;
    }
    let flow = model.flow(&trained);
    let batch = u64::from(training.batch_size).div_ceil(to.processes.max(1));
    let targets = (to.tokens_at_once as f64 * rows.target_share()).round() as u64;
    let kept = Kept { model, bytes, tokens: to.tokens_at_once, targets, rows: batch.min(rows.count) };
    to.activations = kept.activations(&flow, training.gradient_checkpointing)
        + model.adapter_activations(training, to.tokens_at_once, bytes.activation)
        + kept.vectors();
    let standing = to.weights + to.copies + to.optimizer;
    // An epoch's end is a step as well: no more batches are summed than there are.
    let batches = rows.count.div_ceil(u64::from(training.batch_size).max(1)).max(1);
    let accumulation = u64::from(training.gradient_accumulation_steps).clamp(1, batches);
    let after = to.gradients + by_row(&tables, &kept, accumulation);
    // With checkpointing, what the first pass through a layer took stays with the process as well, in pieces.
    let passes = if training.gradient_checkpointing { 2 } else { 1 };
    let work = to.activations + passes * kept.backward(&flow);
    let largest = model.parameters.iter().map(|parameter| FP32 * parameter.elements()).max().unwrap_or(0);
    let update = update_bytes(&training.optimizer, &tables, model, bytes, largest);
    // A checkpoint is written tensor by tensor.
    let passing = update.max(largest).max(evaluation(model, training, rows) + vectors_kept(model, rows));
    // Freed activations that stay with the process stand beside what passes after them.
    let most = if kept.gives_back() { (work + after).max(after + passing) } else { work + after + passing };
    to.buffers = most.saturating_sub(to.activations + to.gradients);
    to.runtime = PROGRAM + model.vocabulary() * TOKEN + rows_bytes(rows, to);
    to.peak = to.runtime + standing + most;
}

/// What the passes over the greatest batch hold.
struct Kept<'a> {
    model: &'a Model,
    bytes: Bytes,
    tokens: u64,
    /// Those of them that are targets.
    targets: u64,
    rows: u64,
}

impl Kept<'_> {
    fn activations(&self, flow: &[Flow], checkpointing: bool) -> u64 {
        let layers = flow.iter().enumerate().map(|(number, flow)| self.layer(number, *flow));
        if checkpointing {
            let entered = self.bytes.activation * self.tokens * self.model.hidden * self.model.layers;
            return self.embedding() + entered + layers.max().unwrap_or(0);
        }
        self.embedding() + layers.sum::<u64>()
    }

    /// Where vectors are made of states: the states in fp32, and the cosines of all texts of a batch with each other, scaled, with
    /// their softmax.
    fn vectors(&self) -> u64 {
        if self.model.has_head || self.model.writes() {
            return 0;
        }
        FP32 * (self.tokens * self.model.hidden + 3 * self.rows * self.rows)
    }

    /// What a layer keeps: the inputs of its products where their weights are trained, queries, keys and values, the
    /// input of the activation function, the sums that are normed, and fp32 numbers a token for attention and norms. Of
    /// the last layer only keys and values are those of all tokens.
    fn layer(&self, number: usize, flow: Flow) -> u64 {
        let (n, a) = (self.tokens, self.bytes.activation);
        let (d, m) = (self.model.hidden, self.model.intermediate);
        if !flow.enters && !flow.trained {
            return 0;
        }
        if let Some(sizes) = &self.model.both {
            let [numbers, singles] = sizes.kept(number, flow, [self.tokens - self.targets, self.targets]);
            return a * numbers + FP32 * singles;
        }
        if let Some(sizes) = &self.model.decoder {
            let (q, k) = (sizes.queries, sizes.keys);
            // Of the inputs of products those that a norm or a gate made are made again.
            let (opened, inputs) = if sizes.is_gated() { (2 * m, q) } else { (m, 2 * d + q + m) };
            let inputs = if flow.trained { inputs } else { 0 };
            // What is normed, queries with keys and values, and what the activation reads.
            return a * n * (2 * d + q + 2 * k + opened + inputs) + FP32 * n * (self.model.heads + 2);
        }
        let asking = if flow.last { self.rows } else { n };
        let (own, inputs) = match (flow.trained, flow.last) {
            (false, _) => (0, 0),
            (true, false) => (d, 2 * d + m),
            // The states of first tokens are picked out for their queries.
            (true, true) => (d, 3 * d + m),
        };
        a * (n * (2 * d + own) + asking * (d + 2 * d + m + inputs)) + FP32 * asking * (self.model.heads + 4)
    }

    /// Whether the allocator gives freed activations back to the system: those of 32 MiB and more, which it maps one by
    /// one (glibc's `DEFAULT_MMAP_THRESHOLD_MAX`). Smaller ones stay with the process, in pieces that what comes after
    /// them does not fit well.
    fn gives_back(&self) -> bool {
        self.bytes.activation * self.tokens * self.model.hidden >= 32 << 20
    }

    /// The sum of embeddings, in fp32 but where tables are kept in fewer bits, and what is made of it.
    fn embedding(&self) -> u64 {
        let table = if self.bytes.pure { 2 } else { FP32 };
        self.tokens * self.model.hidden * (table + self.bytes.activation)
    }

    /// Gradients on their way through a layer, at their most.
    fn backward(&self, flow: &[Flow]) -> u64 {
        let (d, m) = (self.model.hidden, self.model.intermediate);
        if let Some(sizes) = &self.model.decoder {
            // Gate and up; states, their gradients and a chunk of logits where tokens count.
            let logits = 2 * CHUNK.max(FP32 * sizes.vocabulary);
            return self.bytes.activation * self.tokens * (4 * d + 2 * m) + logits;
        }
        if let Some(sizes) = &self.model.both {
            let logits = 2 * CHUNK.max(FP32 * sizes.vocabulary);
            return self.bytes.activation * self.tokens * (4 * d + 2 * m) + logits;
        }
        let passes = flow.iter().any(|flow| flow.enters || flow.trained);
        let through = if passes { 2 * d + m } else { 5 * d + m };
        self.bytes.activation * self.tokens * through
    }
}

/// Gradients of large tables: a row a token, summed by row, of which both stand for a moment.
fn by_row(tables: &[&Parameter], kept: &Kept, accumulation: u64) -> u64 {
    let of = |table: &&Parameter| {
        let tokens = kept.tokens * accumulation;
        let width = kept.bytes.parameter(table) * table.shape[1];
        tokens * (width + 8) + tokens.min(table.shape[0]) * width
    };
    tables.iter().map(of).sum()
}

/// What an update makes and drops again.
fn update_bytes(
    optimizer: &Optimizer,
    tables: &[&Parameter],
    model: &Model,
    bytes: Bytes,
    largest: u64,
) -> u64 {
    let table = |table: &&Parameter| bytes.parameter(table) * table.elements();
    let dense: u64 = tables.iter().map(table).sum();
    match optimizer {
        // These read gradients by row.
        Optimizer::Adam { .. }
        | Optimizer::Adamw { .. }
        | Optimizer::Adamw8bit { .. }
        | Optimizer::SparseAdam { .. }
        | Optimizer::Lion { .. } => 0,
        Optimizer::Sgd { .. } | Optimizer::Rmsprop { .. } => dense,
        Optimizer::Adafactor { .. } => dense + largest,
        Optimizer::Muon { .. } => dense.max(4 * FP32 * model.hidden * model.intermediate),
    }
}

/// Bytes that a rule remembers of a parameter (`trainer::optim`), in 32 bits also where the parameter has 16.
fn state_bytes(optimizer: &Optimizer, parameter: &Parameter) -> u64 {
    /// Parameters with fewer numbers keep 32-bit moments.
    const LEAST_8BIT: u64 = 4096;
    /// Codes that share a scale.
    const BLOCK: u64 = 256;
    let elements = parameter.elements();
    let like = FP32 * elements;
    let matrix = parameter.shape.len() == 2;
    match optimizer {
        Optimizer::Sgd { momentum, .. } => {
            if *momentum > 0.0 {
                like
            } else {
                0
            }
        }
        Optimizer::Adam { amsgrad, .. } | Optimizer::Adamw { amsgrad, .. } => {
            like * (2 + u64::from(*amsgrad))
        }
        Optimizer::SparseAdam { .. } => 2 * like,
        Optimizer::Rmsprop { momentum, centered, .. } => {
            like * (1 + u64::from(*centered) + u64::from(*momentum > 0.0))
        }
        Optimizer::Lion { .. } => like,
        Optimizer::Adafactor { beta1, .. } => {
            let mean = if beta1.is_some() { like } else { 0 };
            mean + if matrix { FP32 * parameter.shape.iter().sum::<u64>() } else { like }
        }
        Optimizer::Muon { .. } if matrix && parameter.is_multiplied() => like,
        Optimizer::Muon { .. } => 2 * like,
        Optimizer::Adamw8bit { .. } if elements >= LEAST_8BIT => {
            2 * (elements + FP32 * elements.div_ceil(BLOCK))
        }
        Optimizer::Adamw8bit { .. } => 2 * like,
    }
}

/// The pass over the greatest batch of an evaluation, in fp32, of which nothing is kept.
fn evaluation(model: &Model, training: &Training, rows: &Rows) -> u64 {
    let size = training.eval_batch_size.unwrap_or(training.batch_size).into();
    let widest = (5 * model.hidden).max(2 * model.hidden + 2 * model.intermediate);
    rows.greatest(size, 1000) * widest * FP32
}

/// Vectors of an evaluation: those of anchors and positives of as many rows as are looked for, in the order of rows, as a matrix of
/// each, and once more where one of them is turned. How many rows are held out is not known here: as many as are trained on, at most.
fn vectors_kept(model: &Model, rows: &Rows) -> u64 {
    /// The trainer looks for no more rows (`trainer::data`).
    const MOST: u64 = 10_000;
    if model.has_head || model.writes() {
        return 0;
    }
    rows.count.min(MOST) * 2 * model.hidden * FP32 * 3
}

/// Texts, and their tokens with their kinds.
fn rows_bytes(rows: &Rows, to: &Estimate) -> u64 {
    let tokens = (rows.count as f64 * rows.mean()) as u64;
    2 * rows.bytes + 5 * tokens + 64 * to.tokens_at_once
}
