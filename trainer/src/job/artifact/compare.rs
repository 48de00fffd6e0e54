//! Two models' logits of the same places beside each other.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// What logits are there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// One of many: a label, the next token.
    One,
    /// Whether each of some labels is there.
    Several,
    /// A number.
    Number,
}

/// What came of it so far.
pub struct Compared {
    told: Told,
    /// Places: rows of a classifier, tokens of a language model.
    pub places: u64,
    /// The largest difference of two logits.
    pub largest: f64,
    low: f64,
    high: f64,
    divergence: f64,
    /// The largest divergence of one place, in nats.
    pub largest_divergence: f64,
    equal: u64,
    answers: u64,
    /// Whether all logits of the artefact are numbers.
    pub is_finite: bool,
}

impl Compared {
    /// Nothing yet.
    pub fn new(told: Told) -> Self {
        Compared {
            told,
            places: 0,
            largest: 0.0,
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
            divergence: 0.0,
            largest_divergence: 0.0,
            equal: 0,
            answers: 0,
            is_finite: true,
        }
    }

    /// Adds logits `[m, width]` of the model and of the artefact.
    pub fn add(&mut self, model: &Tensor, artifact: &Tensor) -> Result<()> {
        ensure!(model.size() == artifact.size(), "the artefact has logits of another shape");
        if model.numel() == 0 {
            return Ok(());
        }
        let number = |tensor: Tensor| -> Result<f64> { Ok(f64::try_from(tensor.to_kind(Kind::Double))?) };
        self.places += model.size()[0] as u64;
        self.is_finite &= bool::try_from(artifact.isfinite().all())?;
        self.largest = self.largest.max(number((model - artifact).abs().max())?);
        self.low = self.low.min(number(model.min())?);
        self.high = self.high.max(number(model.max())?);
        match self.told {
            Told::One => {
                let [own, other] = [model, artifact].map(|logits| logits.log_softmax(-1, Kind::Float));
                let each =
                    (own.exp() * (&own - other)).sum_dim_intlist(-1, false, Kind::Double).clamp_min(0.0);
                self.divergence += number(each.sum(Kind::Double))?;
                self.largest_divergence = self.largest_divergence.max(number(each.max())?);
                let same = model.argmax(-1, false).eq_tensor(&artifact.argmax(-1, false));
                self.equal += number(same.sum(Kind::Int64))? as u64;
                self.answers += model.size()[0] as u64;
            }
            Told::Several => {
                let same = model.gt(0.0).eq_tensor(&artifact.gt(0.0));
                self.equal += number(same.sum(Kind::Int64))? as u64;
                self.answers += model.numel() as u64;
            }
            Told::Number => {}
        }
        Ok(())
    }

    /// Between the least and the greatest logit of the model.
    pub fn range(&self) -> f64 {
        (self.high - self.low).max(0.0)
    }

    /// The largest difference as a share of the logits' range; of numbers, whose range says little where there are few, of
    /// their largest magnitude.
    pub fn relative(&self) -> f64 {
        let scale = match self.told {
            Told::Number => self.high.abs().max(self.low.abs()),
            _ => self.range(),
        };
        match self.largest {
            0.0 => 0.0,
            largest => largest / scale.max(f64::from(f32::MIN_POSITIVE)),
        }
    }

    /// Mean over places of the Kullback–Leibler divergence of the artefact's distribution from the model's, in nats.
    pub fn mean_divergence(&self) -> Option<f64> {
        (self.told == Told::One && self.places > 0).then(|| self.divergence / self.places as f64)
    }

    /// Share of the places where both say the same: the likeliest label or token, each flag.
    pub fn equal_share(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.equal as f64 / self.answers as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: &[[f32; 3]]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([rows.len() as i64, 3])
    }

    fn compared(told: Told, model: &[[f32; 3]], artifact: &[[f32; 3]]) -> Compared {
        let mut compared = Compared::new(told);
        compared.add(&tensor(model), &tensor(artifact)).unwrap();
        compared
    }

    #[test]
    fn the_same_logits_differ_by_nothing() {
        let same = [[1.0, -2.0, 0.5]];
        let compared = compared(Told::One, &same, &same);
        assert_eq!((compared.largest, compared.relative(), compared.range()), (0.0, 0.0, 3.0));
        assert_eq!((compared.mean_divergence(), compared.equal_share()), (Some(0.0), Some(1.0)));
    }

    /// By hand: softmax of (0, ln 3, …) and of (0, 0, …) over two tokens that count, the third far away.
    #[test]
    fn differences_are_those_worked_out_by_hand() {
        let ln3 = 3.0_f32.ln();
        let found = compared(
            Told::One,
            &[[0.0, ln3, -100.0], [1.0, 0.0, -100.0]],
            &[[0.0, 0.0, -100.0], [1.0, 0.0, -100.0]],
        );
        let divergence = 0.25 * (0.25_f64 / 0.5).ln() + 0.75 * (0.75_f64 / 0.5).ln();
        assert!((found.mean_divergence().unwrap() - divergence / 2.0).abs() < 1e-6);
        assert!((found.largest_divergence - divergence).abs() < 1e-6);
        assert!((found.largest - f64::from(ln3)).abs() < 1e-6);
        assert!((found.relative() - f64::from(ln3) / f64::from(100.0 + ln3)).abs() < 1e-6);
        // Of equal logits the first counts.
        assert_eq!(found.equal_share(), Some(0.5));
    }

    #[test]
    fn flags_are_compared_one_by_one_and_numbers_have_no_answers() {
        let [model, artifact] = [[[1.0, -1.0, 2.0]], [[1.0, 1.0, 2.0]]];
        let flags = compared(Told::Several, &model, &artifact);
        assert_eq!((flags.equal_share(), flags.mean_divergence()), (Some(2.0 / 3.0), None));
        let numbers = compared(Told::Number, &model, &artifact);
        assert_eq!((numbers.equal_share(), numbers.relative()), (None, 1.0));
    }

    #[test]
    fn what_is_not_a_number_is_seen() {
        let found = compared(Told::One, &[[0.0, 1.0, 2.0]], &[[0.0, f32::NAN, 2.0]]);
        assert!(!found.is_finite);
        let other = Tensor::zeros([1, 2], (Kind::Float, tch::Device::Cpu));
        assert!(Compared::new(Told::One).add(&tensor(&[[0.0; 3]]), &other).is_err());
    }
}
