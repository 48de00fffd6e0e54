//! Times of exchanges between two processes on this machine: `cargo run --release -p native --example all_reduce`.

use std::process::Command;
use std::time::{Duration, Instant};

use native::c10d::{Group, Reduce, Reducer, ReducerOptions, Store};
use native::gradients::clear_grads;
use native::runtime;
use tch::{Device, Kind, Tensor};

const PORT: &str = "LUTHIER_EXAMPLE_PORT";
const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> native::Result<()> {
    runtime::set_threads(1)?;
    if let Ok(port) = std::env::var(PORT) {
        let port = port.parse().map_err(|_| tch::TchError::Torch("no port".into()))?;
        return measure(&Store::tcp_client("127.0.0.1", port, TIMEOUT)?, 1);
    }
    let store = Store::tcp_master("127.0.0.1", 0, TIMEOUT)?;
    let port = store.port().unwrap_or_default().to_string();
    let mut other = Command::new(std::env::current_exe()?).env(PORT, port).spawn()?;
    measure(&store, 0)?;
    other.wait()?;
    Ok(())
}

fn measure(store: &Store, rank: usize) -> native::Result<()> {
    let group = Group::gloo(store, rank, 2, TIMEOUT, "127.0.0.1")?;
    for megabytes in [0.004, 1.0, 4.0, 25.0, 91.0] {
        let tensor = Tensor::zeros([(megabytes * 250_000.0) as i64], CPU);
        time(&group, &format!("all-reduce of {megabytes} MB"), || group.all_reduce(&tensor, Reduce::Avg))?;
    }
    // What a batch of 32 texts of 64 tokens touches of an embedding of 30,522 rows of 384.
    let indices = Tensor::randint(30_522, [2048], (Kind::Int64, Device::Cpu));
    let values = Tensor::randn([2048, 384], CPU);
    time(&group, "2,048 of 30,522 rows of 384 (47 MB), by all_reduce_rows", || {
        group.all_reduce_rows(&indices, &values, 30_522, Reduce::Avg).map(drop)
    })?;

    let dense = Tensor::zeros([30_522, 384], CPU);
    time(&group, "all of them, by all_reduce", || group.all_reduce(&dense, Reduce::Avg))?;
    let table = Tensor::zeros([30_522, 384], CPU).set_requires_grad(true);
    let options = ReducerOptions { sparse: vec![true], ..ReducerOptions::default() };
    let mut sparse = Reducer::new(&group, &[&table], &options)?;
    time(&group, "the sparse gradient, by the reducer (with forward and backward)", || {
        clear_grads(&[&table])?;
        sparse.prepare_for_forward()?;
        sparse.backward(&(Tensor::embedding(&table, &indices, -1, false, true) * &values).sum(Kind::Float))
    })?;
    drop(sparse);
    time(&group, "that without the exchange", || {
        clear_grads(&[&table])?;
        (Tensor::embedding(&table, &indices, -1, false, true) * &values).sum(Kind::Float).f_backward()
    })?;

    let layer = || (Tensor::randn([384, 1536], CPU) * 0.02).set_requires_grad(true);
    let params: Vec<_> = (0..38).map(|_| layer()).collect();
    let rows = Tensor::randn([512, 384], CPU);
    let loss = || {
        let x = params
            .chunks(2)
            .fold(rows.shallow_clone(), |x, pair| x.matmul(&pair[0]).tanh().matmul(&pair[1].tr()));
        x.square().mean(Kind::Float)
    };
    time(&group, "forward and backward of 38 matrices (90 MB), alone", || {
        clear_grads(&params)?;
        loss().f_backward()
    })?;
    let mut reducer = Reducer::new(&group, &params, &ReducerOptions::default())?;
    time(&group, "the same, averaged by the reducer", || {
        clear_grads(&params)?;
        reducer.prepare_for_forward()?;
        reducer.backward(&loss())
    })
}

/// The median of 9 times after two to get warm, said by rank 0.
fn time(group: &Group, what: &str, mut f: impl FnMut() -> native::Result<()>) -> native::Result<()> {
    let mut times = Vec::new();
    for _ in 0..11 {
        group.barrier()?;
        let start = Instant::now();
        f()?;
        times.push(start.elapsed());
    }
    let mut times = times.split_off(2);
    times.sort();
    if group.rank() == 0 {
        println!("{what}: {:.1} ms", times[4].as_secs_f64() * 1e3);
    }
    Ok(())
}
