//! What dropout promises: its bits are Philox's, and depend on key and position alone.

use native::{dropout, f_dropout, key, keys, keys_of, runtime};
use tch::{Device, Kind, Tensor};

/// Philox4x32-10, written down from the paper a second time, one counter at a time.
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        let (hi0, lo0) = ((p0 >> 32) as u32, p0 as u32);
        let (hi1, lo1) = ((p1 >> 32) as u32, p1 as u32);
        c = [hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// The draw of the element at `index` (without the example), by the layout in dropout's docs.
fn draw(key: i64, index: &[i64]) -> u32 {
    let (d, outer) = index.split_last().unwrap();
    let mut counter = [(d / 64 * 16 + d % 16) as u32, 0, 0, 0];
    for (word, &i) in counter[1..].iter_mut().zip(outer.iter().rev()) {
        *word = i as u32;
    }
    philox(counter, [key as u32, (key >> 32) as u32])[(d / 16 % 4) as usize]
}

fn ones(shape: &[i64]) -> Tensor {
    Tensor::ones(shape, (Kind::Float, Device::Cpu))
}

fn some_keys(n: i64) -> Tensor {
    keys(7, 3, 1, &Tensor::arange(n, (Kind::Int64, Device::Cpu)))
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn the_reference_of_this_test_is_philox() {
    // Known answers of Random123, the authors' library.
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn every_element_is_dropped_as_its_own_draw_says() {
    let shapes: [&[i64]; 6] =
        [&[3, 1], &[2, 200], &[3, 5, 64], &[2, 3, 4, 37], &[2, 2, 3, 2, 130], &[1, 2, 129]];
    for shape in shapes {
        let keys = some_keys(shape[0]);
        let p = 0.3;
        let out = dropout(&ones(shape), p, &keys);
        let found = Vec::<f32>::try_from(&out.flatten(0, -1)).unwrap();
        let keys = Vec::<i64>::try_from(&keys).unwrap();
        let threshold = (p * 4_294_967_296.0).round() as u32;
        for (flat, value) in found.iter().enumerate() {
            let mut index = vec![0; shape.len()];
            let mut rest = flat as i64;
            for (at, &size) in index.iter_mut().zip(shape).rev() {
                *at = rest % size;
                rest /= size;
            }
            let kept = draw(keys[index[0] as usize], &index[1..]) >= threshold;
            let expected = if kept { (1.0 / (1.0 - p)) as f32 } else { 0.0 };
            assert_eq!(*value, expected, "{shape:?} {index:?}");
        }
    }
}

#[test]
fn one_draw_in_four_billion_decides() {
    let drawn = f64::from(draw(0, &[0, 0]));
    let x = ones(&[1, 1, 1]);
    let zero = Tensor::from_slice(&[0i64]);
    let value = |threshold: f64| dropout(&x, threshold / 4_294_967_296.0, &zero).double_value(&[0, 0, 0]);
    assert!(value(drawn) > 0.0);
    assert_eq!(value(drawn + 1.0), 0.0);
}

#[test]
fn the_share_dropped_is_p() {
    let x = ones(&[16, 256, 768]);
    let n = 16.0 * 256.0 * 768.0;
    for p in [0.01, 0.1, 0.5, 0.9] {
        let dropped = dropout(&x, p, &some_keys(16)).eq(0).sum(Kind::Float).double_value(&[]);
        let deviation = (n * p * (1.0 - p)).sqrt();
        assert!((dropped - n * p).abs() < 5.0 * deviation, "{p}: {dropped} of {n}");
    }
}

/// Correlation of two masks, in standard deviations of what independent ones would show.
fn correlation(a: &Tensor, b: &Tensor) -> f64 {
    let n = a.numel() as f64;
    let (a, b) = (a.flatten(0, -1), b.flatten(0, -1));
    let (a, b) = (&a - a.mean(Kind::Float), &b - b.mean(Kind::Float));
    let r = a.dot(&b) / (a.norm() * b.norm());
    r.double_value(&[]) * n.sqrt()
}

#[test]
fn other_seeds_steps_sites_and_examples_are_uncorrelated() {
    let x = ones(&[1, 128, 768]);
    let mask = |seed, step, site, example| dropout(&x, 0.5, &keys_of(seed, step, site, &[example]));
    let base = mask(1, 1, 1, 1);
    for (seed, step, site, example) in [
        (2, 1, 1, 1),
        (1, 2, 1, 1),
        (1, 1, 2, 1),
        (1, 1, 1, 2),
        (1, 1, 1, 0),
        (0, 1, 1, 1),
        (1, 1, 1, 1 << 40),
    ] {
        let sigma = correlation(&base, &mask(seed, step, site, example)).abs();
        assert!(sigma < 5.0, "seed {seed} step {step} site {site} example {example}: {sigma}");
    }
    // Neighbours within one mask: along the width, along time, and lanes of one counter.
    for (dim, by) in [(2, 1), (2, 16), (2, 64), (1, 1)] {
        let sigma = correlation(&base, &base.roll([by], [dim])).abs();
        assert!(sigma < 5.0, "dimension {dim} by {by}: {sigma}");
    }
}

#[test]
fn exchanged_words_give_other_keys() {
    let all = [
        key(1, 2, 3, 4),
        key(2, 1, 3, 4),
        key(1, 3, 2, 4),
        key(1, 2, 4, 3),
        key(4, 3, 2, 1),
        key(0, 0, 0, 0),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(all[i + 1..].iter().all(|b| a != b), "{all:?}");
    }
    let ids = Tensor::from_slice(&[5i64, 0, 9]);
    let found = Vec::<i64>::try_from(&keys(1, 2, 3, &ids)).unwrap();
    assert_eq!(found, [key(1, 2, 3, 5), key(1, 2, 3, 0), key(1, 2, 3, 9)]);
}

/// These numbers are part of every checkpoint's promise to resume with the same bits.
#[test]
fn a_key_never_changes() {
    assert_eq!(key(0, 0, 0, 0), KEY_OF_ZEROS);
    assert_eq!(key(42, 1000, 7, 123_456), KEY_OF_SOME);
}
const KEY_OF_ZEROS: i64 = 2_391_539_541_053_276_776;
const KEY_OF_SOME: i64 = 6_630_615_971_898_510_660;

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let x = Tensor::randn([32, 37, 770], (Kind::Float, Device::Cpu));
    let keys = some_keys(32);
    runtime::set_threads(1).unwrap();
    let one = dropout(&x, 0.1, &keys);
    runtime::set_threads(2).unwrap();
    let two = dropout(&x, 0.1, &keys);
    assert!(one.equal(&two));
}

#[test]
fn padding_and_place_in_the_batch_change_nothing() {
    let keys = some_keys(4);
    let activations = Tensor::randn([4, 20, 96], (Kind::Float, Device::Cpu));
    let short = dropout(&activations, 0.2, &keys);
    let padded = dropout(&activations.constant_pad_nd([0, 0, 0, 13]), 0.2, &keys);
    assert!(padded.narrow(1, 0, 20).equal(&short));

    let weights = Tensor::randn([4, 3, 20, 20], (Kind::Float, Device::Cpu));
    let short = dropout(&weights, 0.2, &keys);
    let padded = dropout(&weights.constant_pad_nd([0, 70, 0, 70]), 0.2, &keys);
    assert!(padded.narrow(2, 0, 20).narrow(3, 0, 20).equal(&short));

    let order = Tensor::from_slice(&[2i64, 0, 3, 1]);
    let shuffled = dropout(&weights.index_select(0, &order), 0.2, &keys.index_select(0, &order));
    assert!(shuffled.equal(&short.index_select(0, &order)));
    let alone = dropout(&weights.narrow(0, 2, 1), 0.2, &keys.narrow(0, 2, 1));
    assert!(alone.equal(&short.narrow(0, 2, 1)));
}

#[test]
fn a_view_and_its_copy_give_the_same() {
    let x = Tensor::randn([3, 8, 5, 33], (Kind::Float, Device::Cpu)).transpose(1, 2);
    let keys = some_keys(6);
    let keys = keys.slice(0, 0, 6, 2); // every second key: not contiguous
    assert!(!x.is_contiguous() && !keys.is_contiguous());
    assert!(dropout(&x, 0.4, &keys).equal(&dropout(&x.contiguous(), 0.4, &keys.contiguous())));
}

#[test]
fn half_precisions_and_double_have_the_mask_of_single() {
    let x = Tensor::randn([4, 9, 100], (Kind::Float, Device::Cpu));
    let keys = some_keys(4);
    let mask = dropout(&ones(&[4, 9, 100]), 0.25, &keys);
    for kind in [Kind::BFloat16, Kind::Half, Kind::Double] {
        let x = x.to_kind(kind);
        let out = dropout(&x, 0.25, &keys);
        assert_eq!(out.kind(), kind);
        // 4/3 is rounded to the format only after the product, as torch does.
        let expected = match kind {
            Kind::Double => &x * mask.ne(0) * (1.0 / 0.75),
            _ => (x.to_kind(Kind::Float) * &mask).to_kind(kind),
        };
        assert!(out.equal(&expected), "{kind:?}");
    }
}

#[test]
fn gradients_pass_where_elements_did() {
    let x = Tensor::randn([4, 6, 50], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let keys = some_keys(4);
    let mask = dropout(&ones(&[4, 6, 50]), 0.3, &keys);
    let weight = Tensor::randn([4, 6, 50], (Kind::Float, Device::Cpu));
    let out = dropout(&x, 0.3, &keys);
    assert_eq!(max_difference(&out, &(&x * &mask)), 0.0);
    (out * &weight).sum(Kind::Float).backward();
    assert!(x.grad().equal(&(weight * mask)));
}

#[test]
fn the_gradient_can_be_differentiated_again() {
    let x = Tensor::randn([2, 3, 40], (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let keys = some_keys(2);
    let mask = dropout(&Tensor::ones([2, 3, 40], (Kind::Double, Device::Cpu)), 0.3, &keys);
    // f = Σ (x·m)³, so f' = 3 x² m³ and Σ f' differentiated is 6 x m³.
    let f = dropout(&x, 0.3, &keys).pow_tensor_scalar(3).sum(Kind::Double);
    let first = Tensor::run_backward(&[f], &[&x], true, true).remove(0);
    let second = Tensor::run_backward(&[first.sum(Kind::Double)], &[&x], false, false).remove(0);
    let cubed = mask.pow_tensor_scalar(3);
    assert!(max_difference(&first, &(x.square() * &cubed * 3)) < 1e-12);
    assert!(max_difference(&second, &(&x * cubed * 6)) < 1e-12);
}

#[test]
fn the_ends_of_p_keep_all_and_nothing() {
    let x = Tensor::randn([2, 3, 70], (Kind::Float, Device::Cpu));
    assert!(dropout(&x, 0.0, &some_keys(2)).equal(&x));
    assert_eq!(dropout(&x, 1.0, &some_keys(2)).abs().sum(Kind::Float).double_value(&[]), 0.0);
    assert_eq!(dropout(&ones(&[2, 0, 5]), 0.5, &some_keys(2)).size(), [2, 0, 5]);
}

#[test]
fn what_is_not_finite_stays_visible() {
    let x = Tensor::full([1, 1, 64], f64::NAN, (Kind::Float, Device::Cpu));
    let seen = dropout(&x, 0.5, &some_keys(1)).isnan().all();
    assert_eq!(seen.int64_value(&[]), 1);
}

#[test]
fn wrong_arguments_are_named() {
    let x = ones(&[2, 3, 4]);
    let error = |x: &Tensor, p: f64, keys: &Tensor| f_dropout(x, p, keys).unwrap_err().to_string();
    assert!(error(&x, 1.5, &some_keys(2)).contains("p is 1.5"));
    assert!(error(&x, f64::NAN, &some_keys(2)).contains("it must lie in 0 to 1"));
    assert!(error(&x, 0.5, &some_keys(3)).contains("Int64 [2]"));
    assert!(error(&x, 0.5, &ones(&[2])).contains("they must be Int64"));
    assert!(error(&x.to_kind(Kind::Int64), 0.5, &some_keys(2)).contains("floating"));
    assert!(error(&ones(&[2]), 0.5, &some_keys(2)).contains("2 to 5 dimensions"));
}
