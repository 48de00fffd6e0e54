//! The matrix by which a language model tells tokens apart.

use native::{CrossEntropy, Losses};
use tch::{Kind, Tensor};

use super::{Embedding, Init, Path};

/// One row a token: the output layer, which many families share with their word embedding.
pub struct Vocabulary {
    param: Tensor,
    /// A copy in the kind of mixed precision.
    low: Option<Tensor>,
    /// Added to logits, fp32 `[tokens]`, and not trained.
    bias: Option<Tensor>,
    /// Logits become `cap · tanh(logit / cap)`; 0 for no bound.
    cap: f64,
}

/// The output layer of a decoder.
pub enum Output<'a> {
    /// The word embedding.
    Tied,
    /// A matrix of its own, below this place.
    Own(Path<'a>),
    /// None: another head reads the states.
    None,
}

impl<'a> Output<'a> {
    /// What a language model has, or none where it is not to foretell tokens.
    pub fn of(foretells: bool, tied: bool, own: Path<'a>) -> Self {
        match (foretells, tied) {
            (false, _) => Output::None,
            (true, true) => Output::Tied,
            (true, false) => Output::Own(own),
        }
    }
}

impl Vocabulary {
    /// Takes `weight` `[tokens, size]` below `path`.
    pub fn new(path: &Path, tokens: i64, size: i64, std: f64, cap: f64) -> Self {
        let param = path.param("weight", &[tokens, size], Init::Normal(std));
        let low = path.low("weight", &param);
        Vocabulary { param, low, bias: None, cap }
    }

    /// Embeddings `[tokens, size]` below `table`, and the output layer, if there is to be one.
    pub fn beside(
        table: &Path,
        output: Output,
        [tokens, size]: [i64; 2],
        std: f64,
        cap: f64,
        padding: Option<i64>,
    ) -> (Embedding, Option<Vocabulary>) {
        if let Output::Tied = output {
            let vocabulary = Vocabulary::new(table, tokens, size, std, cap);
            return (Embedding::tied(&vocabulary, padding), Some(vocabulary));
        }
        let embedding = Embedding::new(table, tokens, size, padding, std);
        let own = match output {
            Output::Own(path) => Some(Vocabulary::new(&path, tokens, size, std, cap)),
            _ => None,
        };
        (embedding, own)
    }

    /// With numbers that are added to the logits, fp32 `[tokens]`.
    pub fn biased(self, bias: Tensor) -> Self {
        Vocabulary { bias: Some(bias), ..self }
    }

    /// How many tokens it tells apart.
    pub fn tokens(&self) -> usize {
        self.param.size()[0] as usize
    }

    /// The matrix as a table of embeddings.
    pub(super) fn table(&self) -> Tensor {
        self.param.shallow_clone()
    }

    /// The loss of each of the tokens `targets`, Int64 `[n]`, after states `[n, size]`; all of them times `weights`, fp32
    /// `[n]`, summed.
    pub fn losses(&self, states: &Tensor, targets: &Tensor, weights: &Tensor) -> Losses {
        let weight = self.weight(states.kind());
        native::cross_entropy(CrossEntropy {
            states,
            weight: &weight,
            param: &self.param,
            targets,
            weights,
            bias: self.bias.as_ref(),
            cap: self.cap,
        })
    }

    /// Logits of states `[n, size]`: fp32 `[n, tokens]`, all at once, without gradients.
    pub fn logits(&self, states: &Tensor) -> Tensor {
        // Few rows are multiplied by weights of fewer bits as they are.
        let weight = match &self.low {
            Some(low) if states.kind() != Kind::Float => low.shallow_clone(),
            _ => self.param.detach(),
        };
        let logits = native::linear_of_few(states, &weight, None).to_kind(Kind::Float);
        let logits = self.bias.as_ref().map_or_else(|| logits.shallow_clone(), |bias| &logits + bias);
        if self.cap > 0.0 { (logits / self.cap).tanh() * self.cap } else { logits }
    }

    /// The numbers that are multiplied by, which have no gradient of their own.
    fn weight(&self, kind: Kind) -> Tensor {
        match &self.low {
            Some(low) if kind != Kind::Float => low.shallow_clone(),
            _ => self.param.detach().to_kind(kind),
        }
    }
}
