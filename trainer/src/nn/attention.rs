//! Self-attention over packed sequences: of encoders, of all tokens or of each sequence's first; and of decoders.

use std::rc::Rc;

use native::{Heads, Projections};
use tch::Tensor;

use super::kept::attend;
use super::{Context, Distances, Dropout, Linear, Path, RmsNorm, Rotary};

/// Which tokens ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    All,
    /// The first of each sequence: enough in the last layer, where a classification head reads no other.
    First,
}

impl Reach {
    /// That of layer `number` of `count`, below a head that reads first tokens or below none.
    pub fn of_layer(number: usize, count: usize, has_head: bool) -> Self {
        if has_head && number + 1 == count { Reach::First } else { Reach::All }
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

/// Queries, keys and values of one input.
pub enum Projection<'a> {
    /// Three layers, below these places.
    Apart([&'a Path<'a>; 3]),
    /// One layer that gives them side by side.
    Fused(&'a Path<'a>),
    /// The same, whose weight is kept by column.
    ByColumn(&'a Path<'a>),
    /// One layer that gives query, key and value of each head side by side.
    ByHead(&'a Path<'a>),
}

/// Attention within sequences up to its output projection, of any heads: those of a decoder see what came before a token.
pub struct MultiHeadAttention {
    joined: Linear,
    /// Norms of each query's and each key's head.
    norms: Option<(RmsNorm, RmsNorm)>,
    rotary: Option<Rc<Rotary>>,
    /// What scores get by the distance of tokens.
    distances: Option<Rc<Distances>>,
    dropout: Dropout,
    heads: Heads,
    /// Its place among the model's attentions.
    number: usize,
    /// Whether the layer gives query, key and value of each head side by side.
    by_head: bool,
}

impl MultiHeadAttention {
    /// Takes the weights `[heads · width, size]`; `p` is the dropout on the weights of attention.
    pub fn new(path: &Path, projection: Projection, size: i64, heads: Heads, std: f64, p: f64) -> Self {
        let outputs = [heads.query * heads.width, heads.key * heads.width, heads.key * heads.width];
        let by_head = matches!(projection, Projection::ByHead(_));
        let joined = match projection {
            Projection::ByColumn(path) => Linear::by_column(path, size, outputs.iter().sum(), std),
            Projection::ByHead(path) => Linear::columns(path, size, outputs.iter().sum(), std),
            Projection::Apart(paths) => Linear::beside(&paths, size, &outputs, std),
            Projection::Fused(path) => {
                path.not_shared("queries, keys and values are one matrix");
                Linear::new(path, size, outputs.iter().sum(), std)
            }
        };
        let dropout = Dropout::new(path, p);
        let number = path.next_attention();
        let heads = path.heads(heads);
        let (norms, rotary, distances) = (None, None, None);
        MultiHeadAttention { joined, norms, rotary, distances, dropout, heads, number, by_head }
    }

    /// With norms of queries and keys.
    pub fn normed(self, query: RmsNorm, key: RmsNorm) -> Self {
        MultiHeadAttention { norms: Some((query, key)), ..self }
    }

    /// With what scores get by the distance of tokens, where there is such.
    pub fn at_distances(self, distances: Option<Rc<Distances>>) -> Self {
        MultiHeadAttention { distances, ..self }
    }

    /// With rotary positions, where there are some.
    pub fn turned(self, rotary: Option<Rc<Rotary>>) -> Self {
        MultiHeadAttention { rotary, ..self }
    }

    /// `[n, size]` → the mixture of values, `[n, heads · width]`.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let Heads { query, key, width, .. } = self.heads;
        let joined = self.joined.forward(x, context);
        let joined = match self.by_head {
            true => joined.view([-1, query, 3, width]).transpose(1, 2).reshape(joined.size()),
            false => joined,
        };
        let turn = |x: Tensor, heads: i64| match &self.rotary {
            Some(rotary) => rotary.turn(&x, heads, width, context),
            None => x,
        };
        let Some((of_query, of_key)) = &self.norms else {
            let turned = turn(joined, query + key);
            let given = self.distances.as_ref().map(|distances| distances.given(context.packing.longest()));
            return match (context.kept, given) {
                (Some(kept), given) => {
                    attend(&turned, self.number, self.heads, context.packing, kept, given.as_ref())
                }
                (None, None) => self.dropout.attention(Projections::Joined(&turned), self.heads, context),
                (None, Some(given)) => {
                    self.dropout.distance_attention(Projections::Joined(&turned), self.heads, &given, context)
                }
            };
        };
        let part = |from: i64, heads: i64| joined.narrow(1, from * width, heads * width);
        let queries = turn(of_query.heads(&part(0, query)), query);
        let keys = turn(of_key.heads(&part(query, key)), key);
        let values = part(query + key, key);
        if let Some(kept) = context.kept {
            let joined = Tensor::cat(&[queries, keys, values], 1);
            return attend(&joined, self.number, self.heads, context.packing, kept, None);
        }
        let apart = Projections::Apart(&queries, &keys, &values);
        self.dropout.attention(apart, self.heads, context)
    }
}
