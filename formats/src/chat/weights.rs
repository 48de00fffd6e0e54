//! How much desirable answers should weigh beside the others.

/// TRL's bound; the paper has 4/3.
const MOST: f64 = 1.33;

/// What to do where desirable answers outweigh the others by less than they should, or by more: the product of number and weight
/// should be 1 to 4/3 times that of the undesirable ones (K. Ethayarajh et al., 2024, equation 8), if their numbers differ.
///
/// `weights` are those of desirable and of undesirable answers. `None` where they are as they should be. Ranges as TRL's
/// `KTOTrainer` advises them, to two digits.
pub fn advised_weights(desirable: u64, undesirable: u64, weights: [f64; 2]) -> Option<String> {
    let (good, bad) = (desirable.max(1) as f64, undesirable.max(1) as f64);
    if desirable == undesirable {
        return None;
    }
    let digits = |value: f64| (value * 100.0).round() / 100.0;
    let of_good = [bad * weights[1] / good, bad * weights[1] / good * MOST].map(digits);
    let of_bad = [good * weights[0] / bad / MOST, good * weights[0] / bad].map(digits);
    let within = |range: [f64; 2], weight: f64| range[0] <= weight && weight <= range[1];
    if within(of_good, weights[0]) || within(of_bad, weights[1]) {
        return None;
    }
    Some(format!(
        "{desirable} answers are desirable and {undesirable} are not; with weights of {} and {} one side outweighs the other: \
         take a desirable_weight of {} to {}, or an undesirable_weight of {} to {}, not both",
        weights[0], weights[1], of_good[0], of_good[1], of_bad[0], of_bad[1]
    ))
}

#[cfg(test)]
mod tests {
    use super::advised_weights;

    #[test]
    fn weights_that_even_out_the_numbers_are_left_alone() {
        assert_eq!(advised_weights(10, 10, [1.0, 1.0]), None);
        assert_eq!(advised_weights(10, 40, [4.0, 1.0]), None);
        assert!(advised_weights(10, 40, [5.5, 1.0]).is_some(), "above 4 · 1.33");
        assert_eq!(advised_weights(40, 10, [1.0, 4.0]), None);
        assert!(advised_weights(40, 10, [1.0, 2.9]).is_some(), "below 4 / 1.33");
        // A quarter more needs no weights.
        assert_eq!(advised_weights(50, 40, [1.0, 1.0]), None);
    }

    #[test]
    fn others_are_told_the_ranges_of_trl() {
        let advice = advised_weights(40, 10, [1.0, 1.0]).unwrap();
        assert!(
            advice.contains("a desirable_weight of 0.25 to 0.33, or an undesirable_weight of 3.01 to 4,"),
            "{advice}"
        );
        assert!(
            advised_weights(12, 0, [1.0, 1.0]).unwrap().contains("12 answers are desirable and 0 are not")
        );
    }
}
