//! What a specification may say.

mod adapter;
mod check;
mod optimizer;
mod questions;
mod samples;
mod tagged;
#[cfg(test)]
mod tests;
mod text_to_text;
mod training;

use self::check::Check;
use formats::dataset::related::Relation;

use super::{
    BatchSampler, Columns, Device, EmbeddingLoss, Export, JobSpec, LossOn, Optimizer, Precision, ProblemType,
    Resources, Samples, Task, Work,
};

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct SpecError {
    /// Dotted path of the field.
    pub param: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl SpecError {
    /// An error about a field.
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        SpecError { param: param.into(), message: message.into() }
    }
}

impl JobSpec {
    /// Checks every field against what training can do; gives the first that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        match self.problems().into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(problem),
        }
    }

    /// Everything that is wrong, for a form that shows all of it at once.
    pub fn problems(&self) -> Vec<SpecError> {
        let mut check = Check::default();
        if let Work::Export(export) = self.work {
            return self.export_problems(export, check);
        }
        self.check_columns(&mut check);
        self.check_data(&mut check);
        self.check_task(&mut check);
        self.check_metrics(&mut check);
        self.training.check(&mut check);
        self.check_adapter(&mut check);
        self.check_processes(&mut check);
        check.range("resources.threads", self.resources.threads, 0..=1024, "0 (all cores) to 1024");
        self.check_precision(&mut check);
        check.range("seed", self.seed, ..=2_147_483_647, "0 to 2147483647");
        check.range("split.seed", self.split.seed, ..=2_147_483_647, "0 to 2147483647");
        check.that(self.name.chars().count() <= 256, "name", || "has more than 256 characters".to_owned());
        check.problems()
    }

    /// An export has the settings of the training behind it, which were looked at then; it may be without rows.
    fn export_problems(&self, export: Export, mut check: Check) -> Vec<SpecError> {
        if !self.data.train.is_empty() {
            self.check_data(&mut check);
        }
        check.that(self.resources.devices == 1, "resources.devices", || {
            "an export is made by one process".to_owned()
        });
        let mut problems = check.problems();
        let is_whole = export.format.kinds().is_empty() || export.kind.is_some();
        if !is_whole {
            problems.push(SpecError::new("work.export.kind", "is missing"));
        }
        problems.extend(Export::new(export.format, export.kind).err());
        problems
    }

    /// Processes are copies of the model × stages × shares of each layer.
    fn check_processes(&self, check: &mut Check) {
        let Resources { devices, tensor_parallel, pipeline_stages, .. } = self.resources;
        for (param, number) in [
            ("resources.devices", devices),
            ("resources.tensor_parallel", tensor_parallel),
            ("resources.pipeline_stages", pipeline_stages),
        ] {
            check.that((1..=64).contains(&number), param, || format!("must lie in 1 to 64, found {number}"));
        }
        let model = u64::from(tensor_parallel) * u64::from(pipeline_stages);
        let sane = [devices, tensor_parallel, pipeline_stages].iter().all(|number| (1..=64).contains(number));
        check.that(!sane || u64::from(devices) % model == 0, "resources.devices", || {
            format!(
                "must be a multiple of tensor_parallel × pipeline_stages = {tensor_parallel} × {pipeline_stages}, found \
                 {devices}"
            )
        });
        let whole = matches!(
            self.training.optimizer,
            Optimizer::Muon { .. } | Optimizer::Adafactor { .. } | Optimizer::Adamw8bit { .. }
        );
        check.that(tensor_parallel <= 1 || !whole, "resources.tensor_parallel", || {
            "adafactor, muon and adamw_8bit look at whole matrices, which tensor_parallel cuts; take another optimizer \
             or pipeline_stages"
                .to_owned()
        });
    }

    /// What no CPU computes is refused before the job waits for one; other devices are known to the trainer alone.
    fn check_precision(&self, check: &mut Check) {
        let precision = self.training.precision;
        let rounds = matches!(self.training.optimizer, Optimizer::Adam { .. } | Optimizer::Adamw { .. });
        check.that(precision != Precision::Bf16Pure || rounds, "training.precision", || {
            "bf16_pure rounds updates at random, which adam and adamw do; take one of them, or bf16"
                .to_owned()
        });
        let for_gpus = matches!(precision, Precision::Tf32 | Precision::Fp16);
        check.that(!for_gpus || self.resources.device != Device::Cpu, "training.precision", || {
            format!("{} is for GPUs, and the device is cpu; ask for bf16, fp32 or auto", precision.name())
        });
    }

    fn check_columns(&self, check: &mut Check) {
        let columns = &self.columns;
        if self.task == Task::TextGeneration {
            check.that(*columns == Columns::default(), "columns", || {
                "rows of text generation say by their keys what they are; leave it out".to_owned()
            });
            return;
        }
        if self.task == Task::SentenceSimilarity {
            return self.check_related(check);
        }
        if self.task == Task::QuestionAnswering {
            return self.check_questions(check);
        }
        if self.task.is_text_to_text() {
            return self.check_sequences(check);
        }
        if self.task == Task::TokenClassification {
            return self.check_tagged(check);
        }
        let others =
            Columns { text: String::new(), text_pair: None, label: String::new(), ..columns.clone() };
        check.that(others == Columns::default(), "columns", || {
            "text classification has the roles text, text_pair and label; leave the others out".to_owned()
        });
        let pair = columns.text_pair.as_deref();
        for (param, name) in [
            ("columns.text", Some(columns.text.as_str())),
            ("columns.text_pair", pair),
            ("columns.label", Some(columns.label.as_str())),
        ] {
            check.that(name != Some(""), param, || "the name of a column is missing".to_owned());
        }
        let same = |what: &str, name: &str| format!("is the same column as {what}: \"{name}\"");
        check.that(pair != Some(columns.text.as_str()), "columns.text_pair", || same("text", &columns.text));
        check.that(
            columns.label != columns.text && pair != Some(columns.label.as_str()),
            "columns.label",
            || same("a text", &columns.label),
        );
    }

    /// An anchor with what is near and far, or two texts with a score; each from a column of its own.
    fn check_related(&self, check: &mut Check) {
        let columns = &self.columns;
        let classifies = !columns.text.is_empty() || columns.text_pair.is_some() || !columns.label.is_empty();
        check.that(!classifies, "columns", || {
            "text, text_pair and label are for text classification; name anchor and positive, or text1, text2 and score"
                .to_owned()
        });
        let asks = columns.context.is_some() || columns.question.is_some() || columns.answers.is_some();
        check.that(!asks, "columns", || {
            "context, question and answers are for question answering; name anchor and positive, or text1, text2 and score"
                .to_owned()
        });
        let Some(relation) = Relation::of(columns) else {
            let message = "name anchor, positive and perhaps negative, or text1, text2 and score";
            return check.add("columns", message.to_owned());
        };
        let roles = relation.roles();
        for (place, (role, name)) in roles.iter().enumerate() {
            let param = format!("columns.{role}");
            check.that(!name.is_empty(), &param, || "the name of a column is missing".to_owned());
            if let Some((other, _)) = roles[..place].iter().find(|(_, other)| other == name) {
                check.add(&param, format!("is the same column as {other}: \"{name}\""));
            }
        }
        let (loss, embedding) = self.embedding();
        check.that(loss.is_scored() == relation.is_scored(), "training.embedding.loss", || {
            format!(
                "{} learns from {}",
                loss.name(),
                match loss.is_scored() {
                    true => "pairs with a score; name the columns text1, text2 and score",
                    false => "anchors and positives; name the columns anchor and positive",
                }
            )
        });
        let ranks = loss == EmbeddingLoss::MultipleNegativesRanking;
        check.that(ranks || !embedding.symmetric, "training.embedding.symmetric", || {
            "is for multiple_negatives_ranking; leave it out".to_owned()
        });
        let plain = embedding.batch_sampler == BatchSampler::BatchSampler;
        check.that(ranks || plain, "training.embedding.batch_sampler", || {
            "no_duplicates is for multiple_negatives_ranking, where texts of a batch are each other's wrong answers; leave it out"
                .to_owned()
        });
        check.that(self.training.batch_size > 1 || !ranks || self.per_row() > 2, "training.batch_size", || {
            "is 1, so that an anchor has no other answer to be told from; take 2 or more, or give negatives".to_owned()
        });
    }

    fn check_data(&self, check: &mut Check) {
        let data = &self.data;
        let files = [
            ("data.train", Some(&data.train)),
            ("data.validation", data.validation.as_ref()),
            ("data.test", data.test.as_ref()),
        ];
        for (place, (param, name)) in files.iter().enumerate() {
            let Some(name) = name else { continue };
            let plain =
                !name.is_empty() && !name.contains(['/', '\\', '\0']) && *name != "." && *name != "..";
            check.that(plain, param, || format!("\"{name}\" is no plain file name"));
            let twice = files[..place].iter().any(|(_, other)| *other == Some(*name));
            check.that(!twice, param, || format!("\"{name}\" stands for another part of the data, too"));
        }
        let split = &self.split;
        check.range("split.fraction", split.fraction, 0.0..1.0, "0 to below 1");
        check.range("split.test_fraction", split.test_fraction, 0.0..1.0, "0 to below 1");
        let sizes = self.held_out();
        let held_out = sizes.validation + sizes.test;
        let alone = split.fraction >= 1.0 || split.test_fraction >= 1.0;
        check.that(held_out < 1.0 || alone, "split.test_fraction", || {
            format!("together with fraction it leaves no rows to train on: {held_out} are held out")
        });
    }

    fn check_task(&self, check: &mut Check) {
        let training = &self.training;
        let classes = "is for text classification; leave it out";
        let related = self.task == Task::SentenceSimilarity;
        check.that(related || training.embedding.is_none(), "training.embedding", || {
            "is for sentence similarity; leave it out".to_owned()
        });
        let answers = self.task == Task::QuestionAnswering;
        check.that(answers || training.question_answering.is_none(), "training.question_answering", || {
            "is for question answering; leave it out".to_owned()
        });
        let writes = self.task.is_text_to_text();
        check.that(writes || training.text_to_text.is_none(), "training.text_to_text", || {
            "is for translation, summarization and text2text-generation; leave it out".to_owned()
        });
        check.that(
            self.task == Task::TokenClassification || !training.label_all_tokens,
            "training.label_all_tokens",
            || "is for token classification; leave it out".to_owned(),
        );
        if self.task == Task::TextGeneration {
            check.that(self.problem_type.is_none(), "problem_type", || classes.to_owned());
            check.that(training.class_weights.is_none(), "training.class_weights", || classes.to_owned());
            let smooths = training.preference.is_some() || training.label_smoothing == 0.0;
            check.that(smooths, "training.label_smoothing", || {
                "is for text classification and for preferences; set it to 0".to_owned()
            });
            return;
        }
        check.that(training.loss_on == LossOn::default(), "training.loss_on", || {
            "is for text generation; leave it out".to_owned()
        });
        check.that(training.chat_template.is_none(), "training.chat_template", || {
            "is for text generation; leave it out".to_owned()
        });
        check.that(training.preference.is_none(), "training.preference", || {
            "is for text generation; leave it out".to_owned()
        });
        let asks = training.samples != Samples::default() && !training.samples.is_off();
        check.that(!asks, "training.samples", || "is for text generation; leave it out".to_owned());
        if writes {
            self.check_text_to_text(check);
        }
        if related || answers {
            check.that(self.problem_type.is_none(), "problem_type", || classes.to_owned());
            check.that(training.class_weights.is_none(), "training.class_weights", || classes.to_owned());
            check.that(training.label_smoothing == 0.0, "training.label_smoothing", || {
                "is for text classification and for preferences; set it to 0".to_owned()
            });
        }
        if related {
            check.that(!training.freeze.except_head, "training.freeze.except_head", || {
                "a model of vectors has no head, so nothing would be trained; set it to false".to_owned()
            });
            let beside = training.lora.as_ref().is_some_and(|adapter| !adapter.merge);
            check.that(!beside, "training.lora.merge", || {
                "must be true: an encoder answers for itself, not for adapters beside it".to_owned()
            });
        }
        if self.task == Task::TokenClassification {
            check.that(self.problem_type.is_none(), "problem_type", || classes.to_owned());
            check.that(training.class_weights.is_none(), "training.class_weights", || classes.to_owned());
        }
        if self.problem_type == Some(ProblemType::Regression) {
            check.that(training.class_weights.is_none(), "training.class_weights", || {
                "a regression has no classes; leave it out".to_owned()
            });
        }
        if matches!(self.problem_type, Some(ProblemType::Regression | ProblemType::MultiLabel)) {
            check.that(training.label_smoothing == 0.0, "training.label_smoothing", || {
                "is for problems with one label a row; set it to 0".to_owned()
            });
        }
    }

    /// Whether rows are there to evaluate on.
    pub fn has_validation(&self) -> bool {
        self.data.validation.is_some() || self.split.fraction > 0.0
    }

    fn check_metrics(&self, check: &mut Check) {
        let training = &self.training;
        let needs = "needs validation rows; give a validation file or a split.fraction above 0";
        if let Some(metric) = &training.best_metric {
            check.that(self.has_validation(), "training.best_metric", || needs.to_owned());
            check.metric("training.best_metric", metric, self);
        }
        if let Some(stopping) = &training.early_stopping {
            let param = "training.early_stopping";
            check.that(self.has_validation(), param, || needs.to_owned());
            if let Some(metric) = &stopping.metric {
                check.metric("training.early_stopping.metric", metric, self);
            }
            check.range("training.early_stopping.patience", stopping.patience, 1..=1000, "1 to 1000");
            let delta = stopping.min_delta;
            check.range("training.early_stopping.min_delta", delta, 0.0..f64::INFINITY, "0 or more");
        }
    }
}
