//! The element types of GGUF tensors, by ggml's numbers.

use std::fmt;

/// How a tensor's elements are written.
///
/// Elements of a quantized type lie in blocks of [`TensorKind::block`] consecutive elements of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the format's, `name` writes them")]
pub enum TensorKind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

use TensorKind::*;

/// Number in the file, name, elements and bytes of a block.
const TABLE: [(TensorKind, u32, &str, u64, u64); 13] = [
    (F32, 0, "f32", 1, 4),
    (F16, 1, "f16", 1, 2),
    (Bf16, 30, "bf16", 1, 2),
    (Q4_0, 2, "q4_0", 32, 18),
    (Q4_1, 3, "q4_1", 32, 20),
    (Q5_0, 6, "q5_0", 32, 22),
    (Q5_1, 7, "q5_1", 32, 24),
    (Q8_0, 8, "q8_0", 32, 34),
    (Q2K, 10, "q2_k", 256, 84),
    (Q3K, 11, "q3_k", 256, 110),
    (Q4K, 12, "q4_k", 256, 144),
    (Q5K, 13, "q5_k", 256, 176),
    (Q6K, 14, "q6_k", 256, 210),
];

/// Types that exist and are not read, so that they can be called by their name.
const OTHERS: [(u32, &str); 23] = [
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (20, "iq4_nl"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (23, "iq4_xs"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (27, "i64"),
    (28, "f64"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (39, "mxfp4"),
    (40, "nvfp4"),
    (41, "q1_0"),
    (4, "q4_2 (removed from the format)"),
    (5, "q4_3 (removed from the format)"),
];

impl TensorKind {
    /// All types that are read.
    pub const ALL: [Self; 13] = [F32, F16, Bf16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];

    fn row(self) -> (u32, &'static str, u64, u64) {
        // `TABLE` lists every variant in the order of the declaration.
        let (_, id, name, block, bytes) = TABLE[self as usize];
        (id, name, block, bytes)
    }

    /// The type of this number.
    ///
    /// # Errors
    /// The name of the type, where there is one that is not read.
    pub fn of_id(id: u32) -> Result<Self, String> {
        if let Some((kind, ..)) = TABLE.iter().find(|row| row.1 == id) {
            return Ok(*kind);
        }
        let other = OTHERS.iter().find(|(other, _)| *other == id);
        Err(other.map_or(format!("type {id}, which is unknown"), |(_, name)| (*name).to_owned()))
    }

    /// Its number in a file.
    pub fn id(self) -> u32 {
        self.row().0
    }

    /// Its name, such as `q4_k`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements of a block.
    pub fn block(self) -> u64 {
        self.row().2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u64 {
        self.row().3
    }

    /// Bytes of a row; `None` where the row does not consist of whole blocks, or is impossibly long.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block()) {
            return None;
        }
        (elements / self.block()).checked_mul(self.block_bytes())
    }

    /// Whether elements are rounded to a grid of their block.
    pub fn is_quantized(self) -> bool {
        self.block() > 1
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
