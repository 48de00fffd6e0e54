//! A job in several processes: one for each GPU, or as many as were asked for on a CPU.
//!
//! The process that was started is rank 0: it starts the others, writes events and checkpoints, and listens to whoever
//! started it. Each copy of the model takes a share of the rows of every batch; the gradient of the batch is the sum over
//! copies, by torch.distributed's `Reducer`. A copy may lie in several processes ([`Grid`]). So the steps do not depend on the number of processes, and a checkpoint of one number
//! goes on with another.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use native::c10d::{Group, Reduce, Reducer, ReducerOptions, Store, Work};
use rustix::process::{Signal, set_parent_process_death_signal};
use store::spec;
use tch::{Device, Kind, Tensor};

use super::grid::{Grid, Place};
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
    grid: Grid,
    /// All processes.
    group: Option<Group>,
    /// Those that have the same part of the model, one a copy.
    copies: Option<Group>,
    /// Those of this copy of the model.
    model: Option<Group>,
    /// Those that share this one's layers.
    shares: Option<Group>,
    reducer: Option<Reducer>,
    /// Parameters whose gradients are exchanged by row, not by the reducer.
    by_row: Vec<Tensor>,
    /// Processes that rank 0 started.
    children: Vec<Child>,
    store: Option<Store>,
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
            grid: Grid { copies: 1, stages: 1, shares: 1 },
            group: None,
            copies: None,
            model: None,
            shares: None,
            reducer: None,
            by_row: Vec::new(),
            children: Vec::new(),
            store: None,
        }
    }

    /// Finds the other processes of the job in `dir`, or starts them, as many as `grid` says.
    pub fn meet(dir: &Path, attempt: u32, grid: Grid, device: spec::Device) -> Result<Self> {
        let size = grid.size();
        if let Ok(place) = std::env::var(RENDEZVOUS) {
            // Whoever started this process is gone, or goes: so does this one.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            let rank = own_rank();
            let (host, port) = place.rsplit_once(':').context("LUTHIER_RENDEZVOUS is HOST:PORT")?;
            let store = Store::tcp_client(host, port.parse()?, TIMEOUT)?;
            ensure!(
                std::env::var(SIZE)? == size.to_string(),
                "{SIZE} is not the number of processes of spec.json"
            );
            return Self::join(store, rank, grid, device, Vec::new());
        }
        if size == 1 {
            return Ok(Self::alone());
        }
        let store = Store::tcp_master("127.0.0.1", 0, TIMEOUT)?;
        let port = store.port().context("a store that listens has a port")?;
        let children = (1..size).map(|rank| start(dir, attempt, rank, size, port)).collect::<Result<_>>()?;
        Self::join(store, 0, grid, device, children)
    }

    fn join(
        store: Store,
        rank: usize,
        grid: Grid,
        device: spec::Device,
        children: Vec<Child>,
    ) -> Result<Self> {
        let on_gpu = device != spec::Device::Cpu && native::cuda::available();
        // `of`: which of the groups of this kind; groups of one process are none.
        let group = |kind: &str, of: usize, own: usize, size: usize| -> Result<Option<Group>> {
            if size == 1 {
                return Ok(None);
            }
            let store = store.with_prefix(&format!("{kind}/{of}"))?;
            Ok(Some(match on_gpu {
                true => Group::nccl(&store, own, size, TIMEOUT, rank)?,
                false => Group::gloo(&store, own, size, TIMEOUT, "127.0.0.1")?,
            }))
        };
        let Place { copy, stage, share } = grid.place(rank);
        let within = rank % grid.model();
        Ok(Ranks {
            rank,
            grid,
            group: group("all", 0, rank, grid.size())?,
            copies: group("copies", within, copy, grid.copies)?,
            model: group("model", copy, within, grid.model())?,
            shares: group("shares", copy * grid.stages + stage, share, grid.shares)?,
            reducer: None,
            by_row: Vec::new(),
            children,
            store: Some(store),
        })
    }

    /// Which one this is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Whether this is the one that writes.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// The share of rows of its copy of the model.
    pub fn share(&self) -> Share {
        Share { rank: self.place().copy, size: self.grid.copies }
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.grid.size()
    }

    /// How they are arranged.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Where this one stands.
    pub fn place(&self) -> Place {
        self.grid.place(self.rank)
    }

    /// Whether this one says what its copy of the model found: it is the first that has the outputs.
    pub fn speaks(&self) -> bool {
        let place = self.place();
        place.stage + 1 == self.grid.stages && place.share == 0
    }

    /// Those that share this one's layers.
    pub fn sharing(&self) -> Result<Option<Group>> {
        Ok(self.shares.as_ref().map(Group::again).transpose()?)
    }

    /// Where the processes of the job tell each other what is not a tensor.
    pub fn store(&self) -> Result<&Store> {
        self.store.as_ref().context("a process alone has no store")
    }

    /// Sends to another process of the job under a tag, without waiting for it.
    pub fn send(&self, tensor: &Tensor, to: usize, tag: usize) -> Result<Work> {
        let group = self.group.as_ref().context("there is nobody to send to")?;
        Ok(group.send_start(tensor, to, u16::try_from(tag)?)?)
    }

    /// Fills `tensor` with what another process of the job sends under a tag.
    pub fn receive(&self, tensor: &Tensor, from: usize, tag: usize) -> Result<()> {
        let group = self.group.as_ref().context("there is nobody to receive from")?;
        Ok(group.recv(tensor, from, u16::try_from(tag)?)?)
    }

    /// Prepares the exchange of gradients of `params` (those that are trained); `by_row` are embeddings whose gradient is
    /// rows.
    pub fn exchange(&mut self, params: &[Tensor], by_row: Vec<Tensor>) -> Result<()> {
        let Some(group) = &self.copies else { return Ok(()) };
        let all: Vec<&Tensor> = params.iter().chain(&by_row).collect();
        tch::no_grad(|| group.broadcast_all(&all, 0))?;
        if !params.is_empty() {
            self.reducer = Some(Reducer::new(group, params, &ReducerOptions::default())?);
        }
        self.by_row = by_row;
        Ok(())
    }

    /// Before a backward pass that begins at `from`; only in the last of a step gradients are exchanged.
    pub fn before_backward(&mut self, from: &Tensor, last: bool) -> Result<()> {
        if let Some(reducer) = &mut self.reducer {
            reducer.set_require_grad_sync(last);
            reducer.prepare_for_forward()?;
            reducer.begin_backward(from)?;
        }
        Ok(())
    }

    /// After the last backward pass of a step: gradients of rows, which the reducer does not see, are summed too.
    pub fn after_backward(&mut self) -> Result<()> {
        let Some(group) = &self.copies else { return Ok(()) };
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

    /// Sums numbers over the processes of this copy of the model, in place.
    pub fn sum_of_model(&self, numbers: &mut [f64]) -> Result<()> {
        let Some(group) = &self.model else { return Ok(()) };
        let tensor = Tensor::from_slice(numbers).to_device(self.device());
        group.all_reduce(&tensor, Reduce::Sum)?;
        numbers.copy_from_slice(&Vec::<f64>::try_from(tensor)?);
        Ok(())
    }

    /// Makes the gradients of parameters that all shares have whole the same on each: on a GPU sums of rows of
    /// embeddings come in any order, so that their last bits differ.
    pub fn level(&self, params: &[Tensor]) -> Result<()> {
        let Some(group) = self.shares.as_ref().filter(|_| self.device() != Device::Cpu) else {
            return Ok(());
        };
        for grad in params.iter().map(Tensor::grad).filter(Tensor::defined) {
            group.all_reduce(&grad, Reduce::Avg)?;
        }
        Ok(())
    }

    /// Takes each parameter from the copy of the model that has updated it.
    pub fn spread(&self, owners: &[(Tensor, usize)]) -> Result<()> {
        let Some(group) = &self.copies else { return Ok(()) };
        tch::no_grad(|| owners.iter().try_for_each(|(param, owner)| Ok(group.broadcast(param, *owner)?)))
    }

    /// The greatest of what the ranks say, of each number.
    pub fn greatest<const N: usize>(&self, numbers: [i64; N]) -> Result<[i64; N]> {
        let Some(group) = &self.group else { return Ok(numbers) };
        let tensor = Tensor::from_slice(&numbers).to_device(self.device());
        group.all_reduce(&tensor, Reduce::Max)?;
        Ok(<[i64; N]>::try_from(Vec::<i64>::try_from(tensor)?).unwrap_or(numbers))
    }

    /// Where tensors lie that go to other processes.
    pub fn device(&self) -> Device {
        match native::cuda::available() {
            true => Device::Cuda(self.rank),
            false => Device::Cpu,
        }
    }

    /// Waits until all are here.
    pub fn gather(&self) -> Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| Ok(group.barrier()?))
    }

    /// Waits until the others have ended; rank 0 then knows that none failed.
    pub fn part(&mut self) -> Result<()> {
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
