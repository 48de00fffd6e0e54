//! What workers say to the questions of one request, in one stream or gathered.

use futures::stream::{self, BoxStream, StreamExt};

use crate::inference::protocol::{Answer, Counts, Finish, Generate, Token};
use crate::inference::{Answers, Served};
use crate::{AppState, Error, Result};

/// Parts of answers: the number of the question, and what is said to it.
pub type Parts = BoxStream<'static, Result<(usize, Answer)>>;

/// Asks, once the first part is wanted. Answers to several questions are mixed as they come.
pub fn ask(state: AppState, served: Served, questions: Vec<Generate>) -> Parts {
    let asked = async move { state.workers.generate(&served, questions).await };
    let opened = |asked: Result<Vec<Answers>>| match asked {
        Ok(all) => stream::select_all(all.into_iter().enumerate().map(follow)).boxed(),
        Err(error) => stream::once(async { Err(error) }).boxed(),
    };
    stream::once(asked).flat_map(opened).boxed()
}

fn follow((question, answers): (usize, Answers)) -> Parts {
    stream::unfold(answers, move |mut answers| async move {
        let answer = answers.next().await?;
        Some((answer.map(|answer| (question, answer)), answers))
    })
    .boxed()
}

/// One answer in full.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// What was said.
    pub text: String,
    /// Its tokens, where they were asked for.
    pub tokens: Vec<Token>,
    /// Why it ended.
    pub finish: Option<Finish>,
}

/// Gathers all answers: `each` of them to each of `questions`, in order.
pub async fn gather(mut parts: Parts, questions: usize, each: u64) -> Result<(Vec<Choice>, Counts)> {
    let mut choices = vec![Choice::default(); questions * each as usize];
    let mut counts = Counts::default();
    while let Some(part) = parts.next().await {
        let (question, answer) = part?;
        let place = |choice: u64| question * each as usize + choice.min(each - 1) as usize;
        match answer {
            Answer::Text { choice, text, tokens } => {
                let choice = &mut choices[place(choice)];
                choice.text.push_str(&text);
                choice.tokens.extend(tokens);
            }
            Answer::Finished { choice, finish } => choices[place(choice)].finish = Some(finish),
            Answer::Done { done } => counts += done,
            Answer::Started { .. } | Answer::Embedded { .. } | Answer::Unloaded { .. } => {}
            Answer::Failed { error } => return Err(Error::Unavailable(error.message)),
        }
    }
    Ok((choices, counts))
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.prompt_tokens += more.prompt_tokens;
        self.completion_tokens += more.completion_tokens;
    }
}

/// OpenAI's word for the end of an answer.
pub fn reason(finish: Option<Finish>) -> &'static str {
    match finish {
        Some(Finish::Length) => "length",
        Some(Finish::Stop | Finish::Cancelled) | None => "stop",
    }
}
