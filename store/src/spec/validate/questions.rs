//! What a job that answers questions may say.

use formats::dataset::questions::Asking;

use super::Check;
use crate::spec::{Columns, JobSpec, QuestionAnswering};

impl JobSpec {
    /// A context, a question and answers, each from a column of its own, and windows that go on.
    pub(super) fn check_questions(&self, check: &mut Check) {
        let columns = &self.columns;
        let Some(asking) = Asking::of(columns) else {
            let message = "name context, question and answers, and perhaps answer_start and is_impossible";
            return check.add("columns", message.to_owned());
        };
        let own = Columns {
            context: columns.context.clone(),
            question: columns.question.clone(),
            answers: columns.answers.clone(),
            answer_start: columns.answer_start.clone(),
            is_impossible: columns.is_impossible.clone(),
            ..Columns::default()
        };
        check.that(*columns == own, "columns", || {
            "question answering has the roles context, question, answers, answer_start and is_impossible; leave the others out"
                .to_owned()
        });
        let roles = asking.roles();
        for (place, (role, name)) in roles.iter().enumerate() {
            let param = format!("columns.{role}");
            check.that(!name.is_empty(), &param, || "the name of a column is missing".to_owned());
            if let Some((other, _)) = roles[..place].iter().find(|(_, other)| other == name) {
                check.add(&param, format!("is the same column as {other}: \"{name}\""));
            }
        }
        let QuestionAnswering { doc_stride, max_answer_length, n_best, null_score_difference_threshold } =
            self.question_answering();
        let at = |name: &str| format!("training.question_answering.{name}");
        let length = self.training.max_length.unwrap_or(QuestionAnswering::MAX_LENGTH);
        check.that(doc_stride < length, &at("doc_stride"), || {
            format!("must be below max_length = {length}, or windows do not go on; found {doc_stride}")
        });
        check.range(&at("max_answer_length"), max_answer_length, 1..=4096, "1 to 4096");
        check.range(&at("n_best"), n_best, 1..=100, "1 to 100");
        let threshold = null_score_difference_threshold;
        check.that(threshold.is_finite(), &at("null_score_difference_threshold"), || {
            format!("must be a finite number, found {threshold}")
        });
    }
}
