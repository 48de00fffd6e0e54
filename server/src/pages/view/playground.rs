//! The playground.

use askama::Template;

use super::Page;

/// The page where models are talked to.
#[derive(Template)]
#[template(path = "playground.html")]
pub struct Playground {
    /// Frame of the page.
    pub page: Page,
    /// Language models, newest first.
    pub choices: Vec<Choice>,
    /// Places side by side.
    pub columns: Vec<Column>,
    /// Names of chat templates.
    pub templates: Vec<&'static str>,
}

/// A model to choose.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its id.
    pub id: String,
    /// "fine-tuned", "uploaded".
    pub note: &'static str,
    /// Whether it has a chat template; others continue a text.
    pub chats: bool,
}

/// A place for a model.
#[derive(Clone, Debug)]
pub struct Column {
    /// From 1.
    pub number: usize,
    /// What it is called.
    pub label: &'static str,
    /// Id of the model that is there at first; empty for none.
    pub chosen: String,
}
