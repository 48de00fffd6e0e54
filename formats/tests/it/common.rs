//! Files to test with: made on the spot, or of the collection of trouble cases where that is at hand.

use std::io::Write;
use std::path::{Path, PathBuf};

use formats::table::Table;
use tempfile::TempDir;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// An input of the trouble cases, from `LUTHIER_CASES` or from a `shared` folder beside the repository; `None`, said in the
/// output, where there are none.
pub fn case(name: &str) -> Option<PathBuf> {
    let inputs = std::env::var_os("LUTHIER_CASES").map(PathBuf::from);
    let path = inputs.unwrap_or_else(|| root().join("../shared/cases/inputs")).join(name);
    at_hand(path, name, "cases")
}

/// A path, if it is there.
pub fn at_hand(path: PathBuf, name: &str, what: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    println!("SKIPPED {name}: {what} not at hand");
    None
}

/// A file with this content, in a folder that goes away with the first value.
pub fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(content.as_ref()).unwrap();
    (folder, path)
}

/// A table with this content.
pub fn table(name: &str, content: impl AsRef<[u8]>) -> (TempDir, Table) {
    let (folder, path) = file(name, content);
    (folder, Table::open(&path, name).unwrap())
}

/// A whole table as text, `None` for what is missing.
pub fn cells(table: &Table) -> Vec<Vec<Option<String>>> {
    let width = table.columns().len();
    let rows = table.read_strict().unwrap();
    let cell = |row: &formats::table::Row, column| row.cell(column).written().map(|text| text.into_owned());
    rows.iter().map(|row| (0..width).map(|column| cell(row, column)).collect()).collect()
}

/// A small generator for made-up inputs: xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
