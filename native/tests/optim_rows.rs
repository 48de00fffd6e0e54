//! Gradients of rows, clipping while reading, and the same bits at any number of threads, for the
//! kernels of our own.

use std::sync::Mutex;

use native::optim::{
    Adafactor, AdafactorState, Adam, Adam8bitState, AdamState, Extra, Lion, Muon, adafactor, adam, adamw,
    adamw_8bit, lion, muon, orthogonalize, sparse_adam,
};
use native::{gradients, runtime};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const ADAM: Adam =
    Adam { lr: 1e-2, betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.1, scale: 1.0, amsgrad: false };

/// An embedding whose rows cross pieces of 16,384 elements, and how often it is looked up.
const TABLE: [i64; 2] = [700, 77];
const LOOKED_UP: i64 = 200;

/// Draws alone: the generator is the process's, and tests run side by side.
fn drawn<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _held = GENERATOR.lock();
    tch::manual_seed(seed);
    draw()
}

fn randn(seed: i64, shape: &[i64]) -> Tensor {
    drawn(seed, || Tensor::randn(shape, CPU))
}

/// Lookups of some rows, several times each, and the same as a dense gradient of the same bits.
fn rows(seed: i64) -> (Tensor, Tensor) {
    let indices = drawn(seed, || Tensor::randint(TABLE[0] / 4, [1, LOOKED_UP], (Kind::Int64, Device::Cpu)));
    let values = randn(seed, &[LOOKED_UP, TABLE[1]]);
    let sparse = Tensor::sparse_coo_tensor_indices_size(&indices, &values, TABLE, CPU, false);
    // As backward of an embedding sums: in the order of the lookups.
    let dense = Tensor::zeros(TABLE, CPU);
    for i in 0..LOOKED_UP {
        let _ = dense.get(indices.int64_value(&[0, i])).f_add_(&values.get(i)).unwrap();
    }
    (sparse, dense)
}

/// Three steps of each rule that reads rows, from the same start; everything that they left.
fn steps_of(rule: &str, grads: &[Tensor], scale: f32) -> Vec<Tensor> {
    let param = randn(9, &TABLE);
    let (m, v, top) = (param.zeros_like(), param.zeros_like(), param.zeros_like());
    let blocks = (TABLE[0] * TABLE[1] + 255) / 256;
    let code = || Tensor::zeros(TABLE, (Kind::Uint8, Device::Cpu));
    let (m8, v8) = (code(), code());
    let (m_top, v_top) = (Tensor::zeros([blocks], CPU), Tensor::zeros([blocks], CPU));
    let count = Tensor::zeros([], CPU);
    for grad in grads {
        let options = Adam { scale, amsgrad: rule == "amsgrad", ..ADAM };
        let tops: &[&Tensor] = if options.amsgrad { &[&top] } else { &[] };
        let state =
            AdamState { exp_avgs: &[&m], exp_avg_sqs: &[&v], max_exp_avg_sqs: tops, steps: &[&count] };
        let (params, grads) = ([&param], [grad]);
        match rule {
            "adam" => adam(&params, &grads, &state, &options, &Extra::default()),
            "adamw" | "amsgrad" => adamw(&params, &grads, &state, &options, &Extra::default()),
            "lion" => {
                let options = Lion { lr: 1e-3, betas: (0.9, 0.99), weight_decay: 0.1, scale };
                lion(&params, &grads, &[&m], &options)
            }
            "adamw_8bit" => {
                let state = Adam8bitState {
                    exp_avgs: &[&m8],
                    exp_avg_absmaxs: &[&m_top],
                    exp_avg_sqs: &[&v8],
                    exp_avg_sq_absmaxs: &[&v_top],
                    steps: &[&count],
                };
                adamw_8bit(&params, &grads, &state, &options)
            }
            "sparse_adam" => sparse_adam(&params, &grads, &state, &options),
            other => panic!("{other}"),
        }
        .unwrap();
    }
    vec![param, m, v, top, m8, v8, m_top, v_top, count]
}

fn same(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equal(b))
}

#[test]
fn a_gradient_of_rows_moves_all_rows_as_the_dense_one_does() {
    let (sparse, dense): (Vec<_>, Vec<_>) = (0..3).map(rows).unzip();
    for rule in ["adam", "adamw", "amsgrad", "lion", "adamw_8bit"] {
        let moved = steps_of(rule, &dense, 1.0);
        assert!(same(&steps_of(rule, &sparse, 1.0), &moved), "{rule}");
        assert!(!same(&steps_of(rule, &dense[..1], 1.0), &moved), "{rule} moves");
    }
}

#[test]
fn clipping_while_reading_is_clipping_before() {
    let (sparse, dense): (Vec<_>, Vec<_>) = (0..3).map(rows).unzip();
    let scaled: Vec<Tensor> = dense.iter().map(|grad| grad * f64::from(0.37f32)).collect();
    for rule in ["adam", "adamw", "amsgrad", "lion", "adamw_8bit"] {
        let right = steps_of(rule, &scaled, 1.0);
        assert!(same(&steps_of(rule, &dense, 0.37), &right), "{rule}, dense");
        assert!(same(&steps_of(rule, &sparse, 0.37), &right), "{rule}, rows");
    }
}

#[test]
fn one_and_two_threads_give_the_same_bits_for_rows_too() {
    let (sparse, dense): (Vec<_>, Vec<_>) = (0..3).map(rows).unzip();
    for rule in ["adam", "adamw", "amsgrad", "lion", "adamw_8bit", "sparse_adam"] {
        let run = |threads| {
            runtime::set_threads(threads).unwrap();
            let of_rows = steps_of(rule, &sparse, 0.5);
            let others = if rule == "sparse_adam" { Vec::new() } else { steps_of(rule, &dense, 0.5) };
            of_rows.into_iter().chain(others).collect::<Vec<_>>()
        };
        assert!(same(&run(1), &run(2)), "{rule}");
    }
}

#[test]
fn rows_have_the_norm_and_the_coefficient_of_the_dense_gradient() {
    let (sparse, dense) = rows(4);
    let other = randn(1, &[1000]);
    let norm = |first: &Tensor| gradients::grad_norm(&[first, &other]).unwrap().double_value(&[]) as f32;
    assert_eq!(norm(&sparse), norm(&dense));
    let clipped = [dense.copy(), other.copy()];
    let _ = gradients::clip_grad_norm(&clipped, 0.7).unwrap();
    let coefficient = gradients::clip_coefficient(norm(&sparse), 0.7);
    assert!(coefficient < 0.01);
    assert!(clipped[1].equal(&(&other * f64::from(coefficient))));
    assert_eq!(gradients::clip_coefficient(0.5, 0.7), 1.0);
    assert_eq!(gradients::clip_coefficient(5.0, 0.0), 1.0);
    assert!(gradients::clip_coefficient(f32::NAN, 1.0).is_nan());
}

#[test]
fn the_gradient_of_an_embedding_is_coalesced_to_the_bits_of_the_dense_one() {
    let table = randn(5, &TABLE);
    let ids = drawn(5, || Tensor::randint(50, [8, 30], (Kind::Int64, Device::Cpu)));
    let weight = randn(6, &[8, 30, TABLE[1]]);
    let grad = |sparse: bool, threads: usize| {
        runtime::set_threads(threads).unwrap();
        let leaf = table.copy().set_requires_grad(true);
        (Tensor::embedding(&leaf, &ids, -1, false, sparse) * &weight).sum(Kind::Float).backward();
        gradients::coalesce_grads(&[&leaf]).unwrap();
        leaf.grad()
    };
    let dense = grad(false, 1);
    for threads in [1, 2] {
        let rows = grad(true, threads);
        assert!(rows.is_sparse() && rows.internal_values().size()[0] <= 50);
        assert!(rows.to_dense(None, false).equal(&dense), "{threads} threads");
    }
}

#[test]
fn a_lazy_step_leaves_the_other_rows() {
    let (sparse, dense) = rows(6);
    let before = randn(9, &TABLE);
    let after = steps_of("sparse_adam", &[sparse], 1.0);
    let untouched = dense.abs().sum_dim_intlist([1i64].as_slice(), false, Kind::Float).eq(0.0);
    assert!(untouched.any().int64_value(&[]) == 1);
    let moved = (&after[0] - &before).abs().sum_dim_intlist([1i64].as_slice(), false, Kind::Float).ne(0.0);
    assert!(moved.equal(&untouched.logical_not()));
}

#[test]
fn a_gradient_of_rows_that_the_parameter_has_not_is_refused() {
    let indices = Tensor::from_slice(&[3i64, 3]).view([1, 2]);
    let sparse = Tensor::sparse_coo_tensor_indices_size(&indices, &randn(1, &[2, 5]), [4, 5], CPU, false);
    let (param, m, v, count) =
        (randn(1, &[5, 5]), randn(1, &[5, 5]), randn(1, &[5, 5]), Tensor::zeros([], CPU));
    let state = AdamState { exp_avgs: &[&m], exp_avg_sqs: &[&v], max_exp_avg_sqs: &[], steps: &[&count] };
    let refused = |error: tch::TchError| error.to_string().contains("rows of [4, 5]");
    assert!(refused(adam(&[&param], &[&sparse], &state, &ADAM, &Extra::default()).unwrap_err()));
    let dense = randn(1, &[5, 5]);
    let error = sparse_adam(&[&param], &[&dense], &state, &ADAM).unwrap_err();
    assert!(error.to_string().contains("must be of rows"));
}

#[test]
fn adafactor_has_the_same_bits_at_any_number_of_threads() {
    let (start, grad) = (randn(7, &[900, 130]), randn(8, &[900, 130]));
    let run = |threads| {
        runtime::set_threads(threads).unwrap();
        let (param, row, col) = (start.copy(), Tensor::zeros([900], CPU), Tensor::zeros([130], CPU));
        for step in 1..4 {
            let options = Adafactor {
                lr: 1e-2,
                step,
                decay_rate: -0.8,
                beta1: None,
                eps: (1e-30, 1e-3),
                clip_threshold: 1.0,
                weight_decay: 0.0,
                scale_parameter: true,
                scale: 0.5,
            };
            let state = AdafactorState {
                exp_avg_sq_row: Some(&row),
                exp_avg_sq_col: Some(&col),
                ..AdafactorState::default()
            };
            adafactor(&param, &grad, &state, &options).unwrap();
        }
        param
    };
    assert!(run(1).equal(&run(2)));
    let missing = AdafactorState::default();
    let options = Adafactor {
        lr: 1e-2,
        step: 1,
        decay_rate: -0.8,
        beta1: None,
        eps: (1e-30, 1e-3),
        clip_threshold: 1.0,
        weight_decay: 0.0,
        scale_parameter: true,
        scale: 1.0,
    };
    let error = adafactor(&start, &grad, &missing, &options).unwrap_err().to_string();
    assert!(error.contains("exp_avg_sq_row must be Float [900]"), "{error}");
}

#[test]
fn orthogonalizing_brings_singular_values_near_one() {
    for shape in [[40, 90], [90, 40]] {
        let matrix = randn(1, &shape) * 37.0;
        let found = orthogonalize(&matrix, 5, 1e-7).unwrap();
        let wide = if shape[0] < shape[1] { found.shallow_clone() } else { found.transpose(0, 1) };
        let squares = wide.matmul(&wide.transpose(0, 1)).linalg_eigvalsh("L");
        assert!(squares.max().double_value(&[]) < 1.7, "{squares:?}");
        assert!(squares.min().double_value(&[]) > 0.25, "{squares:?}");
        // Of the same singular vectors, so that both products are symmetric.
        for product in [found.matmul(&matrix.transpose(0, 1)), matrix.transpose(0, 1).matmul(&found)] {
            let size = product.abs().max().double_value(&[]);
            assert!(product.allclose(&product.transpose(0, 1), 0.0, 1e-4 * size, false));
            assert!(size > 1.0);
        }
    }
    let vector = randn(1, &[5]);
    let options = Muon {
        lr: 0.1,
        adjust_lr: native::optim::AdjustLr::Original,
        momentum: 0.9,
        nesterov: true,
        ns_steps: 5,
        eps: 1e-7,
        weight_decay: 0.0,
        scale: 1.0,
    };
    let error = muon(&[&vector], &[&vector.copy()], &[&vector.copy()], &options).unwrap_err();
    assert!(error.to_string().contains("must be a matrix"));
}
