//! Vectors of texts: near each other where the texts are.
//!
//! Losses are those of sentence-transformers: `MultipleNegativesRankingLoss`, `CoSENTLoss`, `CosineSimilarityLoss`. A row is
//! several sequences, and a loss looks at all rows of a micro-batch at once: other rows' texts are the wrong answers. So neither
//! accumulation nor more processes give an anchor more of them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, bail};
use formats::checkpoint::{ENCODERS, SentenceModel};
use formats::dataset::related::Relation;
use serde_json::{Value, json};
use store::spec::{EmbeddingLoss, JobSpec};
use tch::{Kind, Reduction, Tensor};

use super::{Given, Objective, Predictions, Targets};
use crate::data::Split;
use crate::failure::Failure;
use crate::metrics::examples::{Answer, Example, pick};
use crate::metrics::{Metrics, Retrieval, Scores};
use crate::models::Head;
use crate::nn::pooling::{normalized, pool};
use crate::tensors::floats;

/// Documents that are looked at of those found for an anchor.
const FOUND: i64 = 100;

/// Anchors that are compared with all documents at once.
const ANCHORS: usize = 256;

/// Losses of vectors.
pub struct SentenceSimilarity {
    loss: EmbeddingLoss,
    scale: f64,
    symmetric: bool,
    sentence: SentenceModel,
    max_length: usize,
    /// Numbers of a token's state, and of a vector.
    hidden: usize,
    width: usize,
    /// Negatives of a row.
    negatives: usize,
}

impl SentenceSimilarity {
    /// The loss that the settings describe, on vectors that the checkpoint makes as `sentence` says.
    pub fn new(spec: &JobSpec, config: &Value, sentence: SentenceModel, max_length: usize) -> Result<Self> {
        let family = config["model_type"].as_str().unwrap_or_default();
        if !ENCODERS.contains(&family) {
            let message = format!(
                "config.json: model_type `{family}` is not supported for vectors of texts; supported are {}.",
                ENCODERS.join(", ")
            );
            return Err(Failure::user("unsupported_model", message).into());
        }
        let (loss, embedding) = spec.embedding();
        let hidden = config["hidden_size"].as_u64().or_else(|| config["dim"].as_u64());
        let hidden =
            hidden.ok_or_else(|| Failure::user("bad_config", "config.json: hidden_size is missing."))?;
        let negatives = Relation::of(&spec.columns).map_or(0, |relation| relation.texts().len() - 2);
        Ok(SentenceSimilarity {
            loss,
            scale: embedding.scale,
            symmetric: embedding.symmetric,
            width: hidden as usize * sentence.pooling.len(),
            hidden: hidden as usize,
            sentence,
            max_length,
            negatives,
        })
    }

    /// "Vectors of 384 numbers by mean pooling, normalized; loss multiple_negatives_ranking."
    pub fn words(&self) -> String {
        let SentenceModel { pooling, normalizes, is_stated, .. } = &self.sentence;
        let ways: Vec<&str> = pooling.iter().map(|way| way.name()).collect();
        let of_length = if *normalizes { ", normalized" } else { "" };
        let why = if *is_stated { "" } else { " (the checkpoint says nothing of it)" };
        format!(
            "Vectors of {} numbers by {} pooling{of_length}{why}; loss {}.",
            self.width,
            ways.join(" and "),
            self.loss.name()
        )
    }

    /// Vectors of length 1 of a batch's rows, by the places of their texts: each `[b, width]`.
    fn vectors(&self, of: &Given) -> Vec<Tensor> {
        let all = normalized(&pool(of.top, &of.batch.inputs.packing, &self.sentence.pooling));
        let (rows, texts) = (of.rows.len() as i64, of.split.per_row as i64);
        let by_row = all.view([rows, texts, -1]);
        (0..texts).map(|place| by_row.select(1, place)).collect()
    }

    /// The loss of each row of a batch, `[b]`.
    fn losses(&self, of: &Given, vectors: &[Tensor]) -> Tensor {
        match (self.loss, &of.split.targets) {
            (EmbeddingLoss::MultipleNegativesRanking, _) => ranking(vectors, self.scale, self.symmetric),
            (loss, Targets::Nearness(scores)) => {
                let scores: Vec<f32> = of.rows.iter().map(|&row| scores[row] as f32).collect();
                let scores = Tensor::from_slice(&scores).to_device(of.top.device());
                let cosines = (&vectors[0] * &vectors[1]).sum_dim_intlist(1, false, Kind::Float);
                match loss {
                    EmbeddingLoss::Cosent => {
                        cosent(&(cosines * self.scale), &scores).expand([of.rows.len() as i64], false)
                    }
                    _ => (cosines - scores).square(),
                }
            }
            _ => unreachable!("rows of related texts have their targets"),
        }
    }

    /// How many numbers an evaluation keeps of a row: of a pair with a score its cosine; else the vectors of anchor and
    /// positive, and the cosine of the anchor with each negative.
    fn kept(&self) -> usize {
        if self.loss.is_scored() { 1 } else { 2 * self.width + self.negatives }
    }

    fn kept_of<'a>(&self, predictions: &'a Predictions, row: usize) -> &'a [f32] {
        &predictions.outputs[row * self.kept()..][..self.kept()]
    }

    /// The cosine of a row's first two texts.
    fn cosine(&self, predictions: &Predictions, row: usize) -> f64 {
        let kept = self.kept_of(predictions, row);
        match self.loss.is_scored() {
            true => f64::from(kept[0]),
            false => dot(&kept[..self.width], &kept[self.width..2 * self.width]),
        }
    }

    /// Looks for each anchor among all positives of a split. The same text twice is one anchor, and one document.
    fn search(&self, split: &Split, predictions: &Predictions) -> Result<Search> {
        let mut search = Search::default();
        let (mut anchors, mut documents) = (HashMap::new(), HashMap::new());
        let (mut asking, mut asked) = (Vec::new(), Vec::new());
        for row in 0..split.len() {
            let keys = &split.keys[row * split.per_row..][..2];
            let kept = self.kept_of(predictions, row);
            let anchor = *anchors.entry(keys[0]).or_insert_with(|| {
                asking.extend_from_slice(&kept[..self.width]);
                search.relevant.push(Vec::new());
                search.relevant.len() - 1
            });
            let document = *documents.entry(keys[1]).or_insert_with(|| {
                asked.extend_from_slice(&kept[self.width..2 * self.width]);
                search.row_of.push(row);
                search.row_of.len() as u32 - 1
            });
            if !search.relevant[anchor].contains(&document) {
                search.relevant[anchor].push(document);
            }
            search.of_row.push((anchor, document));
        }
        if split.is_empty() {
            return Ok(search);
        }
        let width = self.width as i64;
        let documents = Tensor::from_slice(&asked).view([-1, width]).f_transpose(0, 1)?.contiguous();
        let most = FOUND.min(documents.size()[1]);
        for anchors in asking.chunks(ANCHORS * self.width) {
            let cosines = Tensor::from_slice(anchors).view([-1, width]).f_matmul(&documents)?;
            let (_, places) = cosines.f_topk(most, 1, true, true)?;
            let places = Vec::<i64>::try_from(places.contiguous().view(-1))?;
            let of_anchor = |places: &[i64]| places.iter().map(|&place| place as u32).collect();
            search.found.extend(places.chunks(most as usize).map(of_anchor));
        }
        Ok(search)
    }

    fn score_of(targets: &Targets, row: usize) -> f64 {
        match targets {
            Targets::Nearness(scores) => scores.get(row).copied().unwrap_or(f64::NAN),
            _ => f64::NAN,
        }
    }
}

/// What was looked for and found.
#[derive(Default)]
struct Search {
    /// Of each anchor the documents found, nearest first.
    found: Vec<Vec<u32>>,
    /// Of each anchor its own.
    relevant: Vec<Vec<u32>>,
    /// Anchor and document of each row.
    of_row: Vec<(usize, u32)>,
    /// A row of each document.
    row_of: Vec<usize>,
}

impl Search {
    /// The place of a row's positive among the documents found for its anchor, counted from 1.
    fn rank(&self, row: usize) -> Option<usize> {
        let (anchor, document) = self.of_row[row];
        self.found[anchor].iter().position(|&found| found == document).map(|place| place + 1)
    }
}

/// For each anchor the cross-entropy of its positive among all positives and negatives of the batch, `[b]`; where it is
/// symmetric the mean of that and of the positive's anchor among all anchors.
///
/// `vectors`: of anchors, positives and negatives, each `[b, d]` of length 1.
pub fn ranking(vectors: &[Tensor], scale: f64, symmetric: bool) -> Tensor {
    let (anchors, documents) = (&vectors[0], Tensor::cat(&vectors[1..], 0)); // [b, d], [b · k, d]
    let rows = anchors.size()[0];
    let own = Tensor::arange(rows, (Kind::Int64, anchors.device()));
    let of = |scores: &Tensor| {
        scores.cross_entropy_loss(&own, None::<&Tensor>, Reduction::None, -100, 0.0) // [b]
    };
    let scores = anchors.matmul(&documents.transpose(0, 1)) * scale; // [b, b · k]
    let forth = of(&scores);
    match symmetric {
        false => forth,
        true => (forth + of(&scores.narrow(1, 0, rows).transpose(0, 1))) / 2.0,
    }
}

/// `log(1 + Σ exp(sᵢ − sⱼ))` over the pairs of which i has the lower score, `[]`; `cosines` are scaled, `[b]`.
pub fn cosent(cosines: &Tensor, scores: &Tensor) -> Tensor {
    let differences = cosines.unsqueeze(1) - cosines.unsqueeze(0); // [b, b]
    let counts = scores.unsqueeze(1).lt_tensor(&scores.unsqueeze(0));
    let counted = differences.masked_select(&counts);
    let zero = Tensor::zeros([1], (Kind::Float, cosines.device()));
    Tensor::cat(&[zero, counted], 0).logsumexp(0, false)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl Objective for SentenceSimilarity {
    fn head(&self) -> Head {
        Head::States
    }

    fn couples_rows(&self) -> bool {
        true
    }

    fn weight(&self, _split: &Split, rows: &[usize]) -> f64 {
        rows.len() as f64
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        self.losses(of, &self.vectors(of)).sum(Kind::Float) * by
    }

    fn outputs(&self) -> usize {
        self.kept()
    }

    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let vectors = self.vectors(of);
        let losses = floats(&self.losses(of, &vectors).contiguous())?;
        let cosine = |other: &Tensor| (&vectors[0] * other).sum_dim_intlist(1, true, Kind::Float); // [b, 1]
        let kept = match self.loss.is_scored() {
            true => cosine(&vectors[1]),
            false => {
                let both = [vectors[0].shallow_clone(), vectors[1].shallow_clone()];
                let parts: Vec<Tensor> = both.into_iter().chain(vectors[2..].iter().map(cosine)).collect();
                Tensor::f_cat(&parts, 1)?
            }
        };
        Ok((floats(&kept.contiguous().view(-1))?, losses))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let rows = split.len();
        let loss = (rows > 0).then(|| predictions.losses.iter().sum::<f64>() / rows as f64);
        if self.loss.is_scored() {
            let gold: Vec<f64> = (0..rows).map(|row| Self::score_of(&split.targets, row)).collect();
            let cosines: Vec<f64> = (0..rows).map(|row| self.cosine(predictions, row)).collect();
            return Ok(Scores { loss, gold: &gold, cosines: &cosines }.metrics()?);
        }
        let Search { found, relevant, .. } = self.search(split, predictions)?;
        let right = (0..rows).map(|row| {
            let own = self.cosine(predictions, row);
            let others = &self.kept_of(predictions, row)[2 * self.width..];
            others.iter().filter(|&&other| own > f64::from(other)).count() as u64
        });
        let triplets = (self.negatives > 0).then(|| (right.sum(), (rows * self.negatives) as u64));
        Ok(Retrieval { loss, found: &found, relevant: &relevant, triplets }.metrics()?)
    }

    /// The best, worst and some random rows: a score beside the cosine, or the positive beside what was found first.
    fn examples(&self, split: &Split, predictions: &Predictions, seed: u64) -> Option<Value> {
        const SHOWN: usize = 5;
        let search = match self.loss.is_scored() {
            true => None,
            false => Some(self.search(split, predictions).ok()?),
        };
        let picked = pick(&predictions.losses, SHOWN, seed);
        let text = |row: usize| {
            let text: String = split.texts[row].1.iter().flat_map(|text| text.chars()).take(300).collect();
            Answer::Label(text)
        };
        Some(picked.shown(|row| {
            let (first, second) = &split.texts[row];
            let (number, loss) = (split.numbers[row], predictions.losses[row]);
            match &search {
                Some(search) => {
                    let nearest = search.found[search.of_row[row].0].first().copied().unwrap_or(0);
                    let nearest = text(search.row_of[nearest as usize]);
                    Example::new(number, first, text(row), nearest, None, loss)
                }
                None => {
                    let score = Answer::Number(Self::score_of(&split.targets, row));
                    let cosine = Answer::Number(self.cosine(predictions, row));
                    let example = Example::new(number, first, score, cosine, None, loss);
                    example.with_pair(second.as_deref().unwrap_or_default())
                }
            }
        }))
    }

    /// Row, loss and cosine; then the score, or the positive's place among all that were found (none beyond 100) and the
    /// cosine of the nearest negative.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let search = match self.loss.is_scored() {
            true => None,
            false => Some(self.search(split, predictions)?),
        };
        let last: &[&str] = match (&search, self.negatives) {
            (None, _) => &["score"],
            (Some(_), 0) => &["rank"],
            (Some(_), _) => &["rank", "nearest_negative"],
        };
        csv.write_record(["row", "loss", "cosine"].iter().chain(last))?;
        for (row, number) in split.numbers.iter().enumerate() {
            let mut record = vec![
                number.to_string(),
                predictions.losses[row].to_string(),
                self.cosine(predictions, row).to_string(),
            ];
            match &search {
                None => record.push(Self::score_of(&split.targets, row).to_string()),
                Some(search) => {
                    record.push(search.rank(row).map_or_else(String::new, |rank| rank.to_string()));
                    let others = &self.kept_of(predictions, row)[2 * self.width..];
                    let nearest = others.iter().copied().reduce(f32::max);
                    record.extend(nearest.map(|nearest| nearest.to_string()));
                }
            }
            csv.write_record(record)?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    fn carries(&self) -> &'static [&'static str] {
        // transformers' bare encoders have one, which vectors of tokens do not pass.
        &["pooler."]
    }

    fn files(&self, base: &Path, _config: &Value) -> Vec<(String, Value)> {
        self.sentence.files(base, self.hidden as u64, self.max_length)
    }

    fn library(&self) -> (&'static str, &'static [&'static str]) {
        ("sentence-transformers", &["sentence-transformers", "sentence-similarity", "feature-extraction"])
    }

    fn tuned_config(&self, base: &Value) -> Result<Value> {
        let class = match base["model_type"].as_str().unwrap_or_default() {
            "bert" => "BertModel",
            "roberta" => "RobertaModel",
            "xlm-roberta" => "XLMRobertaModel",
            "distilbert" => "DistilBertModel",
            other => bail!("no class name for {other}"),
        };
        let mut config = base.clone();
        config["architectures"] = json!([class]);
        if let Some(fields) = config.as_object_mut() {
            for gone in ["id2label", "label2id", "problem_type", "num_labels", "_num_labels"] {
                fields.shift_remove(gone);
            }
        }
        Ok(config)
    }

    fn peft_task(&self) -> &'static str {
        "FEATURE_EXTRACTION"
    }

    fn usage(&self, _adapter: bool) -> &'static str {
        USE
    }
}

const USE: &str = "```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = \
                   SentenceTransformer(\"path/to/this/folder\")\nvectors = model.encode([\"…\", \
                   \"…\"])\nprint(model.similarity(vectors, vectors))\n```\n";
