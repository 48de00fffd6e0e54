//! True and false positives, and what follows from them.

/// How often one label was given rightly and wrongly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub true_positive: u64,
    pub false_positive: u64,
    pub false_negative: u64,
}

impl Counts {
    pub fn add(&mut self, gold: bool, predicted: bool) {
        match (gold, predicted) {
            (true, true) => self.true_positive += 1,
            (false, true) => self.false_positive += 1,
            (true, false) => self.false_negative += 1,
            (false, false) => {}
        }
    }

    pub fn support(&self) -> u64 {
        self.true_positive + self.false_negative
    }

    pub fn predicted(&self) -> u64 {
        self.true_positive + self.false_positive
    }

    /// Whether the label occurs at all, in the data or in the predictions.
    pub fn occurs(&self) -> bool {
        self.support() + self.predicted() > 0
    }

    /// 0 for 0/0, as all three.
    pub fn precision(&self) -> f64 {
        ratio(self.true_positive, self.predicted())
    }

    pub fn recall(&self) -> f64 {
        ratio(self.true_positive, self.support())
    }

    pub fn f1(&self) -> f64 {
        ratio(2 * self.true_positive, self.predicted() + self.support())
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| Self {
            true_positive: a.true_positive + b.true_positive,
            false_positive: a.false_positive + b.false_positive,
            false_negative: a.false_negative + b.false_negative,
        })
    }
}

pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The plain mean over labels; 0 for none.
pub(super) fn macro_mean<'a>(
    counts: impl IntoIterator<Item = &'a Counts>,
    score: impl Fn(&Counts) -> f64,
) -> f64 {
    let (mut sum, mut n) = (0.0, 0_u64);
    for count in counts {
        sum += score(count);
        n += 1;
    }
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// The mean over labels, weighted by their support; 0 when no label has any.
pub(super) fn weighted_mean(counts: &[Counts], score: impl Fn(&Counts) -> f64) -> f64 {
    let support: u64 = counts.iter().map(Counts::support).sum();
    if support == 0 {
        return 0.0;
    }
    counts.iter().map(|c| score(c) * c.support() as f64).sum::<f64>() / support as f64
}
