//! The lines that server and worker send each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a worker says of itself in its first line.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ready {
    /// The task of its model.
    #[serde(default)]
    pub task: String,
    /// `cpu`, `cuda`, `cuda:0`, …
    #[serde(default)]
    pub device: String,
    /// Tokens that prompt and answer may have together.
    pub context: Option<u64>,
    /// Weights.
    pub parameters: Option<u64>,
}

/// A question for text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generate {
    /// Folder of the adapter that answers; the base's own weights without one.
    pub adapter: Option<PathBuf>,
    /// What is said or continued.
    #[serde(flatten)]
    pub input: Input,
    /// A chat template by name or as Jinja, in place of the model's own.
    pub template: Option<String>,
    /// How many answers.
    pub n: u64,
    /// Most tokens of an answer; to the end of the context without.
    pub max_tokens: Option<u64>,
    /// 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Draws among so many tokens; 0 for all.
    pub top_k: u64,
    /// Draws among the likeliest tokens that have this share together.
    pub top_p: f64,
    /// Draws among tokens that are at least this share as likely as the likeliest.
    pub min_p: f64,
    /// Divides the logits of tokens that have occurred.
    pub repetition_penalty: f64,
    /// Taken from the logits of tokens that have been said.
    pub presence_penalty: f64,
    /// Taken once for each time that a token was said.
    pub frequency_penalty: f64,
    /// Token id → what is added to its logit.
    pub logit_bias: Map<String, Value>,
    /// Texts that end an answer and do not belong to it.
    pub stop: Vec<String>,
    /// The same gives the same answers.
    pub seed: Option<u64>,
    /// How many other tokens are told with each token's own logarithm; none is told without.
    pub logprobs: Option<u64>,
    /// Whether the prompt's own text comes first.
    pub echo: bool,
    /// `"json"`, or a JSON schema that the answer keeps to.
    pub format: Option<Value>,
}

/// What a worker is given to answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// A conversation.
    Messages(Vec<Value>),
    /// A text, or token ids.
    Prompt(Value),
}

impl Generate {
    /// A question with every setting at rest.
    pub fn new(input: Input) -> Self {
        Generate {
            adapter: None,
            input,
            template: None,
            n: 1,
            max_tokens: None,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Map::new(),
            stop: Vec::new(),
            seed: None,
            logprobs: None,
            echo: false,
            format: None,
        }
    }
}

/// A line of a worker: the number of the question, and a part of its answer.
#[derive(Debug, Deserialize)]
pub struct Line {
    /// The question.
    pub id: u64,
    /// What it says.
    #[serde(flatten)]
    pub answer: Answer,
}

/// A line of a worker that answers no question.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// An adapter gave way to another one.
    pub dropped: Dropped,
}

/// An adapter that is not in memory any more, until it is asked for again.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Dropped {
    /// Its folder.
    pub adapter: PathBuf,
}

/// A part of an answer. The fields that a line has tell which it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The question was understood, and generation begins.
    Started {
        /// What is known by now.
        started: Prompt,
    },
    /// A piece of text.
    Text {
        /// Which of the answers.
        choice: u64,
        /// Whole characters.
        text: String,
        /// The tokens that it is of, where they were asked for.
        #[serde(default)]
        tokens: Vec<Token>,
    },
    /// The end of one of the answers.
    Finished {
        /// Which one.
        choice: u64,
        /// Why.
        finish: Finish,
    },
    /// The end.
    Done {
        /// What it took.
        done: Counts,
    },
    /// Vectors.
    Embedded {
        /// One for each input.
        embeddings: Vec<Vec<f64>>,
        /// Tokens of all inputs.
        tokens: u64,
    },
    /// An adapter was forgotten.
    Unloaded {
        /// True.
        unloaded: bool,
    },
    /// The question cannot be answered; nothing more comes.
    Failed {
        /// Why.
        error: Fault,
    },
}

/// Size of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Prompt {
    /// Tokens that the model reads.
    pub prompt_tokens: u64,
}

/// Tokens of a question and all its answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Tokens that the model has read.
    pub prompt_tokens: u64,
    /// Tokens that it has said.
    pub completion_tokens: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended it, or a text in `stop` did.
    Stop,
    /// It is as long as it may be.
    Length,
    /// Nobody wanted it any more.
    Cancelled,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Token {
    /// Its text.
    pub token: String,
    /// Its number in the vocabulary.
    #[serde(default)]
    pub id: Option<u64>,
    /// Its bytes, which alone may be no whole character.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability; none for the first token of an echoed prompt.
    #[serde(default)]
    pub logprob: Option<f64>,
    /// The likeliest tokens in its place.
    #[serde(default)]
    pub top: Vec<Token>,
}

/// What a worker has against a question.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fault {
    /// For the person who asked.
    pub message: String,
    /// The field of OpenAI's request that is to blame; without one the fault is the worker's.
    #[serde(default)]
    pub param: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(text: Value) -> Answer {
        serde_json::from_value::<Line>(text).unwrap().answer
    }

    #[test]
    fn every_line_is_told_by_its_fields() {
        let counts = Counts { prompt_tokens: 2, completion_tokens: 3 };
        let started = line(json!({"id": 1, "started": {"prompt_tokens": 2}}));
        assert_eq!(started, Answer::Started { started: Prompt { prompt_tokens: 2 } });
        let text =
            line(json!({"id": 1, "choice": 0, "text": "a", "tokens": [{"token": "a", "id": 5, "bytes": [97],
            "logprob": -0.5, "top": [{"token": "b", "bytes": [98], "logprob": -1.0}]}]}));
        assert!(
            matches!(text, Answer::Text { choice: 0, text, tokens } if text == "a" && tokens[0].top.len() == 1)
        );
        let finished = line(json!({"id": 1, "choice": 1, "finish": "length"}));
        assert_eq!(finished, Answer::Finished { choice: 1, finish: Finish::Length });
        let done = line(json!({"id": 1, "done": {"prompt_tokens": 2, "completion_tokens": 3}}));
        assert_eq!(done, Answer::Done { done: counts });
        let vectors = line(json!({"id": 1, "embeddings": [[0.5, 1]], "tokens": 4}));
        assert_eq!(vectors, Answer::Embedded { embeddings: vec![vec![0.5, 1.0]], tokens: 4 });
        let failed = line(json!({"id": 1, "error": {"message": "too long", "param": "messages"}}));
        assert!(matches!(failed, Answer::Failed { error } if error.param.as_deref() == Some("messages")));
        assert!(serde_json::from_str::<Line>("{\"id\": 1, \"what\": 2}").is_err());
    }

    #[test]
    fn a_question_names_one_input_and_every_setting() {
        let question = json!(Generate::new(Input::Prompt(json!([1, 2]))));
        assert_eq!(question["prompt"], json!([1, 2]));
        assert!(question.get("messages").is_none());
        assert_eq!(question["max_tokens"], Value::Null);
        assert_eq!(question["temperature"], 1.0);
    }
}
