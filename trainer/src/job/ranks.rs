//! A job in several processes: one for each GPU, or as many as were asked for on a CPU.
//!
//! The process that was started is rank 0: it starts the others, writes events and checkpoints, and listens to whoever
//! started it. Each rank takes a share of the rows of every batch; the gradient of the batch is the sum over ranks, by
//! torch.distributed's `Reducer`. So the steps do not depend on the number of processes, and a checkpoint of one number
//! goes on with another.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use native::c10d::{Group, Reduce, Reducer, ReducerOptions, Store};
use rustix::process::{Signal, set_parent_process_death_signal};
use store::spec;
use tch::{Device, Kind, Tensor};

use crate::data::Share;
use crate::failure::Failure;

/// A peer that is alive may take this long: rank 0 writes checkpoints while the others wait. A dead one is noticed at
/// once, by its connection.
const TIMEOUT: Duration = Duration::from_secs(1800);

const RANK: &str = "LUTHIER_RANK";
const SIZE: &str = "LUTHIER_WORLD_SIZE";
const RENDEZVOUS: &str = "LUTHIER_RENDEZVOUS";

/// This process among those of its job.
pub struct Ranks {
    rank: usize,
    size: usize,
    group: Option<Group>,
    reducer: Option<Reducer>,
    /// Parameters whose gradients are exchanged by row, not by the reducer.
    by_row: Vec<Tensor>,
    /// Processes that rank 0 started.
    children: Vec<Child>,
    _store: Option<Store>,
}

impl Drop for Ranks {
    fn drop(&mut self) {
        // After a fault the others would wait for this one.
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Which rank this process is by its environment; 0 for one that was not started as another's peer.
pub fn own_rank() -> usize {
    std::env::var(RANK).ok().and_then(|rank| rank.parse().ok()).unwrap_or(0)
}

impl Ranks {
    /// The only process of its job.
    pub fn alone() -> Self {
        Ranks {
            rank: 0,
            size: 1,
            group: None,
            reducer: None,
            by_row: Vec::new(),
            children: Vec::new(),
            _store: None,
        }
    }

    /// Finds the other processes of the job in `dir`, or starts them, `size` in all.
    pub fn meet(dir: &Path, attempt: u32, size: usize, device: spec::Device) -> Result<Self> {
        if let Ok(place) = std::env::var(RENDEZVOUS) {
            // Whoever started this process is gone, or goes: so does this one.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            let rank = own_rank();
            let (host, port) = place.rsplit_once(':').context("LUTHIER_RENDEZVOUS is HOST:PORT")?;
            let store = Store::tcp_client(host, port.parse()?, TIMEOUT)?;
            return Self::join(store, rank, std::env::var(SIZE)?.parse()?, device, Vec::new());
        }
        if size == 1 {
            return Ok(Self::alone());
        }
        let store = Store::tcp_master("127.0.0.1", 0, TIMEOUT)?;
        let port = store.port().context("a store that listens has a port")?;
        let children = (1..size).map(|rank| start(dir, attempt, rank, size, port)).collect::<Result<_>>()?;
        Self::join(store, 0, size, device, children)
    }

    fn join(
        store: Store,
        rank: usize,
        size: usize,
        device: spec::Device,
        children: Vec<Child>,
    ) -> Result<Self> {
        let on_gpu = device != spec::Device::Cpu && native::cuda::available();
        let group = match on_gpu {
            true => Group::nccl(&store, rank, size, TIMEOUT, rank)?,
            false => Group::gloo(&store, rank, size, TIMEOUT, "127.0.0.1")?,
        };
        let (reducer, by_row) = (None, Vec::new());
        Ok(Ranks { rank, size, group: Some(group), reducer, by_row, children, _store: Some(store) })
    }

    /// Which one this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Whether this is the one that writes.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// Its share of rows.
    pub fn share(&self) -> Share {
        Share { rank: self.rank, size: self.size }
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Prepares the exchange of gradients of `params` (those that are trained); `by_row` are embeddings whose gradient is
    /// rows.
    pub fn exchange(&mut self, params: &[Tensor], by_row: Vec<Tensor>) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let all: Vec<&Tensor> = params.iter().chain(&by_row).collect();
        tch::no_grad(|| group.broadcast_all(&all, 0))?;
        if !params.is_empty() {
            self.reducer = Some(Reducer::new(group, params, &ReducerOptions::default())?);
        }
        self.by_row = by_row;
        Ok(())
    }

    /// Before a forward pass; only the last pass of a step is followed by an exchange.
    pub fn before_forward(&mut self, last: bool) -> Result<()> {
        if let Some(reducer) = &mut self.reducer {
            reducer.set_require_grad_sync(last);
            reducer.prepare_for_forward()?;
        }
        Ok(())
    }

    /// Before a backward pass that begins at `loss`.
    pub fn before_backward(&mut self, loss: &Tensor) -> Result<()> {
        self.reducer.as_mut().map_or(Ok(()), |reducer| Ok(reducer.begin_backward(loss)?))
    }

    /// After the last backward pass of a step: gradients of rows, which the reducer does not see, are summed too.
    pub fn after_backward(&mut self) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        if let Some(reducer) = &mut self.reducer {
            reducer.end_backward()?;
        }
        for param in &self.by_row {
            let grad = param.grad();
            let (rows, width) = param.size2()?;
            let (indices, values) = match grad.defined() && grad.is_sparse() {
                true => (grad.f_internal_indices()?.select(0, 0), grad.f_internal_values()?),
                false if grad.defined() => bail!("the gradient of an embedding is not one of rows"),
                false => (
                    Tensor::zeros([0], (Kind::Int64, param.device())),
                    Tensor::zeros([0, width], (param.kind(), param.device())),
                ),
            };
            let all =
                group.all_reduce_rows(&indices.contiguous(), &values.contiguous(), rows, Reduce::Avg)?;
            native::gradients::set_grad(param, &all)?;
        }
        Ok(())
    }

    /// Sums numbers over all ranks, in place.
    pub fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let tensor = Tensor::from_slice(numbers).to_device(self.device());
        group.all_reduce(&tensor, Reduce::Sum)?;
        numbers.copy_from_slice(&Vec::<f64>::try_from(tensor)?);
        Ok(())
    }

    /// The greatest of what the ranks say.
    pub fn greatest(&self, number: i64) -> Result<i64> {
        let Some(group) = &self.group else { return Ok(number) };
        let tensor = Tensor::from_slice(&[number]).to_device(self.device());
        group.all_reduce(&tensor, Reduce::Max)?;
        Ok(i64::try_from(tensor)?)
    }

    fn device(&self) -> Device {
        match native::cuda::available() {
            true => Device::Cuda(self.rank),
            false => Device::Cpu,
        }
    }

    /// Waits until all are done; rank 0 then knows that none failed.
    pub fn part(&mut self) -> Result<()> {
        if let Some(group) = &self.group {
            group.barrier()?;
        }
        for (rank, child) in (1..).zip(std::mem::take(&mut self.children)) {
            let status = { child }.wait()?;
            if !status.success() {
                return Err(Failure::internal(
                    "rank_failed",
                    format!("Process {rank} of the job ended with {status}."),
                )
                .into());
            }
        }
        Ok(())
    }
}

fn start(dir: &Path, attempt: u32, rank: usize, size: usize, port: u16) -> Result<Child> {
    let program = std::env::current_exe().context("finding this program")?;
    Command::new(program)
        .arg("job")
        .arg(dir)
        .args(["--attempt", &attempt.to_string()])
        .env(RANK, rank.to_string())
        .env(SIZE, size.to_string())
        .env(RENDEZVOUS, format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting process {rank} of the job"))
}
