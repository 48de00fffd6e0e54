//! Two texts whose lines belong together, such as `train.en` and `train.fr`, as one table.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value};

use super::encoding::TextReader;
use super::lines::Lines;
use crate::problem::{LineRange, Problem, ProblemKind};

/// The table that two texts became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// A name for it: `train.jsonl`.
    pub name: String,
    /// Its columns, by what the two files' names end in: `en` and `fr`.
    pub columns: [String; 2],
    /// How many rows.
    pub rows: u64,
}

/// Writes two texts of a folder as JSON Lines, an object for each pair of lines: row 7 is line 7 of both.
///
/// `files` are the names in the folder, `name` is what problems call it. Two files belong together where their names differ in
/// what stands behind the last point alone, an ending `.txt` left aside; other files are passed over.
///
/// # Errors
/// [`ProblemKind::UnsupportedFormat`] where no two files belong together, [`ProblemKind::AmbiguousColumns`] where several do;
/// [`ProblemKind::RaggedRow`] naming both numbers of lines, and the first line without a partner, where one has more of them;
/// whatever is wrong with the texts.
pub fn join(folder: &Path, files: &[String], name: &str, to: &Path) -> Result<Joined, Problem> {
    let [first, second] = pair_of(files, name)?;
    let shown = |file: &str| format!("{name}/{file}");
    let open = |file: &str| -> Result<Lines, Problem> {
        Ok(Lines::new(TextReader::open(&folder.join(file), &shown(file))?, &shown(file)))
    };
    let mut sides: [Lines; 2] = [open(&first.file)?, open(&second.file)?];
    let unwritable = |error: std::io::Error| Problem::from_io(error, name);
    let mut out = BufWriter::new(File::create(to).map_err(unwritable)?);
    let columns = [first.ending.clone(), second.ending.clone()];
    let (mut rows, mut lines) = (0, [Vec::new(), Vec::new()]);
    loop {
        let [one, other] = &mut sides;
        let [line_of_one, line_of_other] = &mut lines;
        match (one.read(line_of_one)?, other.read(line_of_other)?) {
            (true, true) => {}
            (false, false) => break,
            _ => return Err(unequal(rows, [first.file, second.file], sides, name)),
        }
        rows += 1;
        let fields = columns.iter().zip(&lines).map(|(column, line)| (column.clone(), text_of(line)));
        let row = Value::Object(fields.collect::<Map<String, Value>>());
        writeln!(out, "{row}").map_err(unwritable)?;
    }
    out.flush().map_err(unwritable)?;
    let stem = first.stem.rsplit('/').next().filter(|stem| !stem.is_empty()).unwrap_or("pairs");
    Ok(Joined { name: format!("{stem}.jsonl"), columns, rows })
}

/// A line without its end.
fn text_of(line: &[u8]) -> Value {
    let text = String::from_utf8_lossy(line);
    text.trim_end_matches(['\n', '\r']).into()
}

/// A file's name in two parts.
struct Named {
    file: String,
    stem: String,
    ending: String,
}

impl Named {
    fn of(file: &str) -> Option<Named> {
        let plain = file.strip_suffix(".txt").unwrap_or(file);
        let (folder, own) = plain.rsplit_once('/').map_or(("", plain), |(folder, own)| (folder, own));
        let (stem, ending) = own.rsplit_once('.').unwrap_or(("", own));
        let stem = if folder.is_empty() { stem.to_owned() } else { format!("{folder}/{stem}") };
        (!ending.is_empty()).then(|| Named { file: file.to_owned(), stem, ending: ending.to_owned() })
    }
}

/// The two files that belong together.
fn pair_of(files: &[String], name: &str) -> Result<[Named; 2], Problem> {
    let named: Vec<Named> = files.iter().filter_map(|file| Named::of(file)).collect();
    let mut pairs: Vec<[&Named; 2]> = Vec::new();
    for (place, one) in named.iter().enumerate() {
        let others =
            named[place + 1..].iter().filter(|other| other.stem == one.stem && other.ending != one.ending);
        pairs.extend(others.map(|other| [one, other]));
    }
    let listed: Vec<&str> = files.iter().take(10).map(String::as_str).collect();
    let problem = |kind: ProblemKind, message: String| {
        Err(Problem::new(kind, name, message).hint(
            "put two texts with a sentence a line into an archive, such as train.en and train.fr, or upload one table",
        ))
    };
    match pairs[..] {
        [] => problem(
            ProblemKind::UnsupportedFormat,
            format!("no two texts of this archive belong together; it has {}", listed.join(", ")),
        ),
        [[one, other]] => {
            let own = |named: &Named| Named {
                file: named.file.clone(),
                stem: named.stem.clone(),
                ending: named.ending.clone(),
            };
            Ok([own(one), own(other)])
        }
        _ => problem(
            ProblemKind::AmbiguousColumns,
            format!(
                "several texts of this archive belong together, and a table is made of two; it has {}",
                listed.join(", ")
            ),
        ),
    }
}

/// What is wrong where one of the texts ends before the other; `rows` lines were there in both.
fn unequal(rows: u64, files: [String; 2], mut sides: [Lines; 2], name: &str) -> Problem {
    let mut line = Vec::new();
    for side in &mut sides {
        // The end, or what cannot be read, ends the count.
        while side.read(&mut line).unwrap_or(false) {}
    }
    let counts = [sides[0].number, sides[1].number];
    let longer = usize::from(counts[1] > counts[0]);
    let message = format!(
        "{} has {} lines and {} has {}: line {} of {} has no partner",
        files[0],
        counts[0],
        files[1],
        counts[1],
        rows + 1,
        files[longer],
    );
    Problem::new(ProblemKind::RaggedRow, name, message).at(LineRange::one(rows + 1)).hint(
        "each line of one is the partner of the same line of the other; mend the texts and upload them again",
    )
}
