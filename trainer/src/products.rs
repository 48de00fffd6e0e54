//! How fast this machine multiplies matrices: what a training's rate is measured against.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Rows, columns of the left matrix, columns of the result: those of a small encoder's layers at 32 rows of text, up to
/// where a product is as fast as it gets.
const SHAPES: [[i64; 3]; 6] = [
    [870, 384, 384],
    [870, 384, 1536],
    [870, 1536, 384],
    [1024, 1024, 1024],
    [1536, 1536, 1536],
    [2048, 2048, 2048],
];

/// Time for which one product is repeated before its rate is taken, and how often: the best rate counts, since what
/// else the machine did slows the others.
const REPEATED: Duration = Duration::from_millis(80);
const TIMES: usize = 8;

/// Settings of `luthier-trainer products`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProductsArgs {
    /// CPU threads; 0 for all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// Measures the products on the CPU: `{"threads", "fp32": {"gflops", "shapes": {"870x384x384": …}}, "bf16": …}`.
///
/// A product of `m×k` and `k×n` is `2·m·k·n` operations; `gflops` is the best of the shapes, in 10⁹ a second. `bf16` is
/// null where the processor does not multiply it.
///
/// # Errors
/// When libtorch refuses a product.
pub fn measure(args: &ProductsArgs) -> Result<Value> {
    if args.threads > 0 {
        native::runtime::set_threads(args.threads)?;
    }
    let bf16 = native::runtime::multiplies_bf16().then(|| rates(Kind::BFloat16, REPEATED)).transpose()?;
    Ok(json!({"threads": native::runtime::threads()?, "fp32": rates(Kind::Float, REPEATED)?, "bf16": bf16}))
}

fn rates(kind: Kind, repeated: Duration) -> Result<Value> {
    let mut shapes = serde_json::Map::new();
    let mut best = 0.0_f64;
    for [rows, inner, columns] in SHAPES {
        let rate = rate([rows, inner, columns], kind, repeated)?;
        best = best.max(rate);
        shapes.insert(format!("{rows}x{inner}x{columns}"), rate.into());
    }
    Ok(json!({"gflops": best, "shapes": shapes}))
}

/// 10⁹ operations a second.
fn rate([rows, inner, columns]: [i64; 3], kind: Kind, repeated: Duration) -> Result<f64> {
    let drawn = |shape: [i64; 2]| Tensor::f_randn(shape, (Kind::Float, Device::Cpu))?.f_to_kind(kind);
    let (x, weight) = (drawn([rows, inner])?, drawn([columns, inner])?);
    let product = || x.f_linear(&weight, None::<&Tensor>);
    // The first ones choose their kernel and touch their memory.
    for _ in 0..3 {
        drop(product()?);
    }
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        let (began, mut count) = (Instant::now(), 0);
        while count == 0 || began.elapsed() < repeated {
            drop(product()?);
            count += 1;
        }
        best = best.min(began.elapsed().as_secs_f64() / f64::from(count));
    }
    Ok(2.0 * (rows * inner * columns) as f64 / best / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_the_best_of_all_shapes() {
        let found = rates(Kind::Float, Duration::ZERO).unwrap();
        let shapes = found["shapes"].as_object().unwrap();
        assert_eq!(shapes.len(), SHAPES.len());
        let best = shapes.values().map(|rate| rate.as_f64().unwrap()).fold(0.0, f64::max);
        assert!(best > 0.0);
        assert_eq!(found["gflops"].as_f64(), Some(best));
    }
}
