//! Parameters in bf16 and copies in bf16: rounding to the nearest, by chance, and with compensation.

use std::sync::Mutex;

use native::optim::{Adam, AdamState, Extra, Rounding, adamw};
use native::runtime;
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const ADAM: Adam =
    Adam { lr: 1e-3, betas: (0.9, 0.99), eps: 1e-8, weight_decay: 0.1, scale: 0.7, amsgrad: true };

const SHAPE: [i64; 2] = [300, 77];

/// Numbers that bf16 holds. Drawn alone: the generator is the process's, and tests run side by side.
fn drawn(seed: i64, kind: Kind) -> Tensor {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _held = GENERATOR.lock();
    tch::manual_seed(seed);
    Tensor::randn(SHAPE, CPU).to_kind(Kind::BFloat16).to_kind(kind)
}

struct Run {
    param: Tensor,
    moments: [Tensor; 3],
    count: Tensor,
}

impl Run {
    fn new(kind: Kind, moments: Kind) -> Self {
        let param = drawn(1, kind);
        let zeros = || Tensor::zeros(SHAPE, (moments, Device::Cpu));
        Run { param, moments: [zeros(), zeros(), zeros()], count: Tensor::zeros([], CPU) }
    }

    /// `options` with gradients of a fixed sequence in bf16, given as `grads`.
    fn step(&self, options: &Adam, grads: Kind, extra: &Extra<&Tensor>) {
        let grad = drawn(10 + self.count.double_value(&[]) as i64, grads);
        let [m, v, top] = &self.moments;
        let state =
            AdamState { exp_avgs: &[m], exp_avg_sqs: &[v], max_exp_avg_sqs: &[top], steps: &[&self.count] };
        adamw(&[&self.param], &[&grad], &state, options, extra).unwrap();
    }
}

fn halves(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::BFloat16)
}

#[test]
fn a_shadow_is_the_new_parameter_rounded_to_the_even() {
    let (plain, run) = (Run::new(Kind::Float, Kind::Float), Run::new(Kind::Float, Kind::Float));
    let shadow = run.param.zeros_like().to_kind(Kind::BFloat16);
    for _ in 0..3 {
        plain.step(&ADAM, Kind::Float, &Extra::default());
        run.step(&ADAM, Kind::Float, &Extra { shadows: &[&shadow], ..Extra::default() });
        assert!(run.param.equal(&plain.param));
        assert!(shadow.equal(&halves(&run.param)));
    }
    // Halfway values, numbers without a neighbour above, and what is no number.
    // From 1 to 2 numbers of bf16 are 1/128 apart.
    let halfway = [128.5f32, 129.5, -128.5].map(|x| x / 128.0);
    let [a, b, c] = halfway;
    let hard = [a, b, c, f32::MAX, f32::INFINITY, f32::NAN, 0.0, -0.0];
    let (param, zeros) = (Tensor::from_slice(&hard), Tensor::zeros([8], CPU));
    let shadow = halves(&zeros);
    let state = AdamState {
        exp_avgs: &[&zeros],
        exp_avg_sqs: &[&zeros.copy()],
        max_exp_avg_sqs: &[],
        steps: &[&Tensor::zeros([], CPU)],
    };
    let still = Adam { weight_decay: 0.0, amsgrad: false, ..ADAM };
    let extra = Extra { shadows: &[&shadow], ..Extra::default() };
    adamw(&[&param], &[&zeros.copy()], &state, &still, &extra).unwrap();
    let right = halves(&param).to_kind(Kind::Float);
    assert!(shadow.to_kind(Kind::Float).allclose(&right, 0.0, 0.0, true), "{shadow}");
}

#[test]
fn a_step_in_bf16_is_one_in_fp32_that_is_rounded() {
    for (moments, grads) in [(Kind::Float, Kind::BFloat16), (Kind::BFloat16, Kind::Float)] {
        let (wide, half) = (Run::new(Kind::Float, Kind::Float), Run::new(Kind::BFloat16, moments));
        wide.step(&ADAM, Kind::Float, &Extra::default());
        half.step(&ADAM, grads, &Extra::default());
        assert!(half.param.equal(&halves(&wide.param)));
        for (half, wide) in half.moments.iter().zip(&wide.moments) {
            assert!(half.equal(&wide.to_kind(moments)));
        }
    }
}

#[test]
fn stochastic_rounding_takes_a_neighbour_and_is_right_in_the_mean() {
    let wide = Run::new(Kind::Float, Kind::Float);
    wide.step(&ADAM, Kind::Float, &Extra::default());
    let run = |seed: u64, index: u32, threads: usize| {
        runtime::set_threads(threads).unwrap();
        let half = Run::new(Kind::BFloat16, Kind::Float);
        let rounding = Rounding::Stochastic { seed, indices: &[index] };
        half.step(&ADAM, Kind::BFloat16, &Extra { shadows: &[], rounding });
        half.param.to_kind(Kind::Float)
    };
    assert!(run(3, 5, 1).equal(&run(3, 5, 2)), "threads");
    assert!(!run(3, 5, 1).equal(&run(4, 5, 1)), "seed");
    assert!(!run(3, 5, 1).equal(&run(3, 6, 1)), "index");

    let draws = 64;
    let mean = (0..draws).map(|seed| run(seed, 0, 1)).reduce(|a, b| a + b).unwrap() / draws as f64;
    // A bf16 number and its neighbour are at most 2^-7 of it apart.
    let gap = wide.param.abs() * 2f64.powi(-7) + 1e-30;
    let apart = |found: &Tensor| (found - &wide.param) / &gap;
    assert!(apart(&run(0, 0, 1)).abs().max().double_value(&[]) <= 1.0);
    let bias = apart(&mean).mean(Kind::Float).double_value(&[]).abs();
    // One draw has a spread below 1/2 of a gap; 64 draws of 23,100 elements one below 5e-4.
    assert!(bias < 2e-3, "{bias}");
    assert!(apart(&mean).abs().max().double_value(&[]) < 0.4);
    let nearest = apart(&halves(&wide.param).to_kind(Kind::Float));
    assert!(
        apart(&mean)
            .square()
            .mean(Kind::Float)
            .lt(nearest.square().mean(Kind::Float).double_value(&[]))
            .int64_value(&[])
            == 1
    );
}

#[test]
fn compensation_keeps_updates_that_rounding_loses() {
    let small = Adam { lr: 1e-5, weight_decay: 0.0, ..ADAM };
    let wide = Run::new(Kind::Float, Kind::Float);
    let (lost, kept) = (Run::new(Kind::BFloat16, Kind::Float), Run::new(Kind::BFloat16, Kind::Float));
    let rest = kept.param.zeros_like();
    let start = kept.param.copy();
    for _ in 0..60 {
        wide.step(&small, Kind::Float, &Extra::default());
        lost.step(&small, Kind::BFloat16, &Extra::default());
        let rounding = Rounding::Compensated(&[&rest]);
        kept.step(&small, Kind::BFloat16, &Extra { shadows: &[], rounding });
    }
    let error = |found: &Tensor| (found - &wide.param).abs().mean(Kind::Float).double_value(&[]);
    let sum = kept.param.to_kind(Kind::Float) + rest.to_kind(Kind::Float);
    let (without, with) = (error(&lost.param.to_kind(Kind::Float)), error(&sum));
    assert!(with < without / 10.0, "{with} with compensation, {without} without");
    assert!(!kept.param.equal(&start));
}

#[test]
fn rounding_that_has_no_place_is_refused() {
    let run = Run::new(Kind::Float, Kind::Float);
    let [m, v, top] = &run.moments;
    let state =
        AdamState { exp_avgs: &[m], exp_avg_sqs: &[v], max_exp_avg_sqs: &[top], steps: &[&run.count] };
    let grad = run.param.copy();
    let step = |extra: &Extra<&Tensor>| {
        adamw(&[&run.param], &[&grad], &state, &ADAM, extra).unwrap_err().to_string()
    };
    let stochastic = |indices| Extra { shadows: &[], rounding: Rounding::Stochastic { seed: 1, indices } };
    assert!(step(&stochastic(&[0])).contains("bf16 parameters on the CPU"));
    assert!(step(&stochastic(&[0, 1])).contains("indices: 2 for 1"));
    let wide = run.param.zeros_like();
    assert!(step(&Extra { shadows: &[&wide], ..Extra::default() }).contains("shadow 0 is Float"));
}
