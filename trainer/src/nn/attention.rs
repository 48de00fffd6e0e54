//! Self-attention over packed sequences, of all tokens or of each sequence's first.

use native::{Heads, Projections};
use tch::Tensor;

use super::{Context, Dropout, Linear, Path};

/// Which tokens ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    All,
    /// The first of each sequence: enough in the last layer, where a classification head reads no other.
    First,
}

impl Reach {
    /// That of layer `number` of `count` below a head that reads first tokens.
    pub fn of_layer(number: usize, count: usize) -> Self {
        if number + 1 == count { Reach::First } else { Reach::All }
    }
}

/// Multi-head attention up to its output projection: queries, keys and values of one input, and the mixture of values.
pub struct SelfAttention {
    /// Apart where not all tokens ask.
    query: Option<Linear>,
    /// The others, beside each other.
    joined: Linear,
    dropout: Dropout,
    heads: Heads,
}

impl SelfAttention {
    /// Takes queries, keys and values, each `[size, size]`, below `paths`; `p` is the dropout on the weights.
    pub fn new(
        path: &Path,
        paths: [&Path; 3],
        size: i64,
        heads: i64,
        std: f64,
        p: f64,
        reach: Reach,
    ) -> Self {
        let [query, key, value] = paths;
        let (query, joined) = match reach {
            Reach::All => (None, Linear::joined(&[query, key, value], size, size, std)),
            Reach::First => {
                let query = Linear::columns(query, size, size, std);
                (Some(query), Linear::joined(&[key, value], size, size, std))
            }
        };
        let heads = path.heads(Heads::bidirectional(heads, size / heads));
        SelfAttention { query, joined, dropout: Dropout::new(path, p), heads }
    }

    /// Hands to `rest` the mixture, what entered at the tokens that ask, and the context of those: `[n, d]` each, or
    /// `[b, d]` for first tokens. Returns what `rest` does.
    pub fn forward(
        &self,
        x: &Tensor,
        context: &Context,
        rest: impl FnOnce(&Tensor, &Tensor, &Context) -> Tensor,
    ) -> Tensor {
        let joined = self.joined.forward(x, context);
        let Some(query) = &self.query else {
            let mixed = self.dropout.attention(Projections::Joined(&joined), self.heads, context);
            return rest(&mixed, x, context);
        };
        let (firsts, asking) = (context.packing.firsts(), context.packing.first(x));
        let over = context.over(&firsts);
        let query = query.forward(&asking, &over);
        let across =
            Projections::Across { query: &query, query_offsets: &firsts.offsets, key_value: &joined };
        let mixed = self.dropout.attention(across, self.heads, context);
        rest(&mixed, &asking, &over)
    }
}
