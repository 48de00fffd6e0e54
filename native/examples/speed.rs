//! Times this crate's kernels beside what libtorch has for the same work: best and median of many runs.
//!
//! `cargo run --release -p native --example speed [threads]`

use std::time::{Duration, Instant};

use native::optim::{
    Adam, Adam8bitState, AdamState, BLOCK, Extra, Lion, Rmsprop, RmspropState, adamw, adamw_8bit, lion,
    rmsprop,
};
use native::{Heads, Projections, attention, dropout, gradients, keys, norm_residual, runtime};
use tch::{Device, Kind, Tensor};

fn time<T>(what: &str, mut run: impl FnMut() -> T) {
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(run());
            start.elapsed()
        })
        .collect();
    times.sort();
    let ms = |t: Duration| t.as_secs_f64() * 1e3;
    println!("{what:<44} best {:7.2} ms, median {:7.2} ms", ms(times[0]), ms(times[20]));
}

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn activations() {
    let x = randn(&[30, 29, 1536]);
    let residual = randn(&[30, 29, 1536]);
    let keys = keys(1, 2, 3, &Tensor::arange(30, (Kind::Int64, Device::Cpu)));
    time("libtorch dropout, 870 x 1536", || x.dropout(0.1, true));
    time("dropout, 870 x 1536", || dropout(&x, 0.1, &keys));
    let half = x.to_kind(Kind::BFloat16);
    time("libtorch dropout, bf16", || half.dropout(0.1, true));
    time("dropout, bf16", || dropout(&half, 0.1, &keys));
    let (weight, bias) = (randn(&[1536]), randn(&[1536]));
    time("norm of a sum with dropout, apart", || {
        let sum = dropout(&x, 0.1, &keys) + &residual;
        sum.layer_norm([1536], Some(&weight), Some(&bias), 1e-5, false)
    });
    time("norm of a sum with dropout", || {
        norm_residual(&x, Some(&residual), &weight, &bias, 1e-5, Some((0.1, &keys, None)))
    });
}

fn forward_and_backward() {
    for t in [29, 128] {
        let packed = || randn(&[32 * t, 12 * 32]).set_requires_grad(true);
        let (q, k, v) = (packed(), packed(), packed());
        let keys = keys(1, 2, 3, &Tensor::arange(32, (Kind::Int64, Device::Cpu)));
        let offsets = Tensor::arange(33, (Kind::Int64, Device::Cpu)) * t;
        let whole = |out: Tensor| out.sum(Kind::Float).backward();
        for p in [0.1, 0.0] {
            let drop = (p > 0.0).then_some((p, &keys));
            time(&format!("attention p {p}, both ways, 32 x 12 x {t}"), || {
                let heads = Heads::bidirectional(12, 32);
                whole(attention(Projections::Apart(&q, &k, &v), heads, &offsets, drop));
            });
            let padded = |x: &Tensor| x.view([32, t, 12, 32]).transpose(1, 2);
            time(&format!("libtorch's with p {p}, 32 x 12 x {t}"), || {
                let (q, k, v) = (padded(&q), padded(&k), padded(&v));
                whole(Tensor::scaled_dot_product_attention(
                    &q,
                    &k,
                    &v,
                    None::<&Tensor>,
                    p,
                    false,
                    None,
                    false,
                ));
            });
        }
    }
}

fn updates() {
    let of = |n: usize| -> Vec<Tensor> { (0..n).map(|_| randn(&[1536, 384])).collect() };
    let (params, grads) = (of(40), of(40));
    let zeros: Vec<Vec<Tensor>> = (0..3).map(|_| params.iter().map(Tensor::zeros_like).collect()).collect();
    let options = Rmsprop {
        lr: 1e-3,
        alpha: 0.99,
        eps: 1e-8,
        weight_decay: 0.01,
        momentum: 0.9,
        scale: 1.0,
        centered: true,
    };
    let state = RmspropState { square_avgs: &zeros[0], grad_avgs: &zeros[1], momentum_buffers: &zeros[2] };
    time("RMSprop, all options, 23.6 M parameters", || rmsprop(&params, &grads, &state, &options));
    let steps: Vec<Tensor> = params.iter().map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu))).collect();
    let adam =
        Adam { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, scale: 0.5, amsgrad: false };
    let state =
        AdamState { exp_avgs: &zeros[0], exp_avg_sqs: &zeros[1], max_exp_avg_sqs: &[], steps: &steps };
    time("AdamW, 23.6 M", || adamw(&params, &grads, &state, &adam, &Extra::default()));
    let shadows: Vec<Tensor> = params.iter().map(|p| p.to_kind(Kind::BFloat16)).collect();
    let extra = || Extra { shadows: &shadows, ..Extra::default() };
    time("AdamW with a copy in bf16", || adamw(&params, &grads, &state, &adam, &extra()));
    let options = Lion { lr: 1e-4, betas: (0.9, 0.99), weight_decay: 0.01, scale: 0.5 };
    time("Lion", || lion(&params, &grads, &zeros[0], &options));
    let codes: Vec<Vec<Tensor>> =
        (0..2).map(|_| params.iter().map(|p| p.zeros_like().to_kind(Kind::Uint8)).collect()).collect();
    let tops: Vec<Vec<Tensor>> = (0..2)
        .map(|_| {
            params
                .iter()
                .map(|p| Tensor::zeros([p.numel() as i64 / BLOCK], (Kind::Float, Device::Cpu)))
                .collect()
        })
        .collect();
    let state = Adam8bitState {
        exp_avgs: &codes[0],
        exp_avg_absmaxs: &tops[0],
        exp_avg_sqs: &codes[1],
        exp_avg_sq_absmaxs: &tops[1],
        steps: &steps,
    };
    time("AdamW in 8 bits", || adamw_8bit(&params, &grads, &state, &adam));
    time("gradient norm, 23.6 M", || gradients::grad_norm(&grads).unwrap());
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    runtime::set_threads(threads).unwrap();
    println!("{threads} threads");
    activations();
    forward_and_backward();
    updates();
}
