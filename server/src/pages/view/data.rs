//! Lists and pages of uploaded data.

use askama::Template;

use super::{Fact, Moment, Page, Paging, ProblemRow};

/// The list of data files.
#[derive(Template)]
#[template(path = "data.html")]
pub struct DataList {
    /// Frame of the page.
    pub page: Page,
    /// Newest first.
    pub rows: Vec<DataRow>,
    /// Newer and older parts.
    pub paging: Paging,
    /// Largest file that is taken.
    pub limit: String,
    /// What was wrong with an upload made without script; empty for nothing.
    pub error: String,
}

/// A file in the list.
#[derive(Clone, Debug)]
pub struct DataRow {
    /// Its page.
    pub href: String,
    /// Its name.
    pub name: String,
    /// "9,514 rows".
    pub rows: String,
    /// "text, label".
    pub columns: String,
    /// Size.
    pub size: String,
    /// When it was uploaded.
    pub created: Moment,
    /// What stands in the way: a chip's style and words.
    pub state: (&'static str, String),
}

/// The page of a data file.
#[derive(Template)]
#[template(path = "data_detail.html")]
pub struct DataDetail {
    /// Frame of the page.
    pub page: Page,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub href: String,
    /// Whether it can be trained on.
    pub usable: bool,
    /// What it is: rows, size, format, hash.
    pub facts: Vec<Fact>,
    /// Columns with what they seem to be.
    pub columns: Vec<ColumnRow>,
    /// Classes of the label column, most frequent first.
    pub labels: Vec<LabelRow>,
    /// Name of the label column; empty when none was recognised.
    pub label_column: String,
    /// "and 12 more classes"; empty for none.
    pub more_labels: String,
    /// The first rows.
    pub preview: Preview,
    /// The first rows as conversations; none for a table of other things.
    pub chats: Conversations,
    /// What is wrong with it.
    pub problems: Problems,
    /// Jobs that used it.
    pub jobs: Vec<Fact>,
    /// Address of the file itself.
    pub download: String,
}

/// Problems of a file and how many more there are.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    /// The first of them.
    pub rows: Vec<ProblemRow>,
    /// "and 12 more"; empty for none.
    pub more: String,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct ColumnRow {
    /// Its name.
    pub name: String,
    /// What it holds: "text", "number", "list".
    pub kind: String,
    /// The role it was guessed to have: "text", "label"; empty for none.
    pub role: String,
    /// How many different values it has.
    pub distinct: String,
    /// How many rows have none.
    pub missing: String,
    /// A value.
    pub example: String,
}

/// A class.
#[derive(Clone, Debug)]
pub struct LabelRow {
    /// Its name.
    pub name: String,
    /// Rows of this class.
    pub count: u64,
    /// Rows of the largest class.
    pub most: u64,
    /// "4,832 (51 %)".
    pub text: String,
}

/// The first rows of a table.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    /// Names of the columns, with the role that each has; empty for none.
    pub columns: Vec<(String, String)>,
    /// Number of the line and the cells.
    pub rows: Vec<PreviewRow>,
    /// Rows in all, in words.
    pub total: String,
}

/// A row of a table.
#[derive(Clone, Debug)]
pub struct PreviewRow {
    /// Where it is in the file.
    pub line: String,
    /// Its cells; none for a missing value.
    pub cells: Vec<Option<String>>,
}

/// The first rows that a language model would learn from.
#[derive(Clone, Debug, Default)]
pub struct Conversations {
    /// The rows.
    pub rows: Vec<Conversation>,
    /// Rows in all, in words.
    pub total: String,
    /// Where rows are shown as tokens; empty where that is not offered.
    pub tokens: String,
}

/// A row as it is read.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Where it is in the file.
    pub line: String,
    /// What is said.
    pub turns: Vec<Turn>,
    /// "and 3 more turns"; empty for none.
    pub more: String,
}

/// What somebody says.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Who.
    pub role: String,
    /// What.
    pub text: String,
    /// Whether it is learnt.
    pub counts: bool,
}
