//! A job in several processes: one for each GPU, or as many as were asked for on a CPU.
//!
//! The process that was started is rank 0: it starts the others, writes events and checkpoints, and listens to whoever
//! started it. Each copy of the model takes a share of the rows of every batch; the gradient of the batch is the sum over
//! copies, by torch.distributed's `Reducer`. A copy may lie in several processes ([`Grid`]). So the steps do not depend on
//! the number of processes, and a checkpoint of one number goes on with another.
//!
//! On several machines the first process of each starts the others there ([`Machines`]); rank 0 listens at its machine's
//! address and writes it to `out/rendezvous`, from where it is carried to the others.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use native::c10d::{Group, Reduce, Reducer, ReducerOptions, Store, Work};
use rustix::process::{Signal, set_parent_process_death_signal};
use store::spec;
use tch::{Device, Kind, Tensor};

use super::grid::{Grid, Place};
use super::machines::Machines;
use crate::data::Share;
use crate::failure::Failure;

/// A peer that is alive may take this long: rank 0 writes checkpoints while the others wait. A dead one is noticed at
/// once, by its connection.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// How long another machine is asked for an answer, and how often.
const REACH: (Duration, u32) = (Duration::from_secs(5), 3);

const RANK: &str = "LUTHIER_RANK";
const SIZE: &str = "LUTHIER_WORLD_SIZE";
const RENDEZVOUS: &str = "LUTHIER_RENDEZVOUS";

/// This process among those of its job.
pub struct Ranks {
    rank: usize,
    grid: Grid,
    machines: Machines,
    /// The first processes of all machines, in one of them.
    between: Option<Group>,
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
    /// Processes that this one started.
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

/// Whether this process writes its machine's plan and result: rank 0, and the first process of every other machine.
pub fn speaks_for_machine() -> bool {
    let rank = own_rank();
    let size = std::env::var(SIZE).ok().and_then(|size| size.parse().ok());
    rank == 0
        || size.is_some_and(|size| {
            Machines::of_environment(rank, size).is_ok_and(|machines| machines.first() == rank)
        })
}

/// Processes on this machine of a job of `size`.
pub fn processes_here(size: usize) -> Result<usize> {
    Ok(Machines::of_environment(own_rank(), size)?.here())
}

impl Ranks {
    /// The only process of its job.
    pub fn alone() -> Self {
        Ranks {
            rank: 0,
            grid: Grid { copies: 1, stages: 1, shares: 1 },
            machines: Machines::one(1),
            between: None,
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
        let (rank, size) = (own_rank(), grid.size());
        let machines = Machines::of_environment(rank, size)?;
        let Ok(place) = std::env::var(RENDEZVOUS) else {
            return match size {
                1 => Ok(Self::alone()),
                _ => Self::host(dir, attempt, grid, machines, device),
            };
        };
        let place: SocketAddr =
            place.parse().with_context(|| format!("{RENDEZVOUS} is \"{place}\", not HOST:PORT"))?;
        ensure!(
            std::env::var(SIZE)? == size.to_string(),
            "{SIZE} is not the number of processes of spec.json"
        );
        let mut children = Vec::new();
        if machines.first() == rank {
            reach(place, rank)?;
            children = start_here(dir, attempt, &machines, size, place)?;
        } else {
            // Whoever started this process is gone, or goes: so does this one.
            set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        let store = Store::tcp_client(&place.ip().to_string(), place.port(), TIMEOUT)?;
        Self::join(store, rank, grid, machines, device, children)
    }

    /// Lets the others find this one, which is rank 0.
    fn host(dir: &Path, attempt: u32, grid: Grid, machines: Machines, device: spec::Device) -> Result<Self> {
        let store = Store::tcp_master(&machines.address.to_string(), 0, TIMEOUT)?;
        let port = store.port().context("a store that listens has a port")?;
        let place = SocketAddr::new(machines.address, port);
        let children = start_here(dir, attempt, &machines, grid.size(), place)?;
        if machines.several() {
            let (new, path) = (dir.join("out/.rendezvous"), dir.join(PLACE));
            std::fs::write(&new, place.to_string())?;
            std::fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))?;
        }
        Self::join(store, 0, grid, machines, device, children)
    }

    fn join(
        store: Store,
        rank: usize,
        grid: Grid,
        machines: Machines,
        device: spec::Device,
        children: Vec<Child>,
    ) -> Result<Self> {
        let host = machines.address.to_string();
        let local = rank - machines.first();
        let on_gpu = device != spec::Device::Cpu && native::cuda::available();
        // `of`: which of the groups of this kind; groups of one process are none.
        let group = |kind: &str, of: usize, own: usize, size: usize| -> Result<Option<Group>> {
            if size == 1 {
                return Ok(None);
            }
            let store = store.with_prefix(&format!("{kind}/{of}"))?;
            Ok(Some(match on_gpu {
                true => Group::nccl(&store, own, size, TIMEOUT, local)?,
                false => Group::gloo(&store, own, size, TIMEOUT, &host)?,
            }))
        };
        let Place { copy, stage, share } = grid.place(rank);
        let within = rank % grid.model();
        Ok(Ranks {
            rank,
            grid,
            between: match local {
                0 => group("machines", 0, machines.own(), machines.count())?,
                _ => None,
            },
            group: group("all", 0, rank, grid.size())?,
            copies: group("copies", within, copy, grid.copies)?,
            model: group("model", copy, within, grid.model())?,
            shares: group("shares", copy * grid.stages + stage, share, grid.shares)?,
            reducer: None,
            by_row: Vec::new(),
            machines,
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

    /// Where they run.
    pub fn machines(&self) -> &Machines {
        &self.machines
    }

    /// Those that speak for their machines, in one of them and where there are several.
    pub fn between_machines(&self) -> Option<&Group> {
        self.between.as_ref()
    }

    /// Which one this is on its machine, from 0.
    pub fn local(&self) -> usize {
        self.rank - self.machines.first()
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
            true => Device::Cuda(self.local()),
            false => Device::Cpu,
        }
    }

    /// Waits until all are here.
    pub fn gather(&self) -> Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| Ok(group.barrier()?))
    }

    /// Waits until those that this one started have ended, which must not fail. A stop that was asked for is none.
    pub fn part(&mut self) -> Result<()> {
        const ENDED_WELL: [Option<i32>; 3] = [Some(0), Some(12), Some(13)];
        for (rank, child) in (self.rank + 1..).zip(std::mem::take(&mut self.children)) {
            let status = { child }.wait()?;
            if !ENDED_WELL.contains(&status.code()) {
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

/// Where rank 0 says at which place it waits for processes of other machines.
pub const PLACE: &str = "out/rendezvous";

/// An answer for whoever set two machines up that do not reach each other; c10d would only try for long.
fn reach(place: SocketAddr, rank: usize) -> Result<()> {
    let (most, tries) = REACH;
    let mut tried = 0;
    while let Err(error) = TcpStream::connect_timeout(&place, most) {
        tried += 1;
        if tried == tries {
            return Err(Failure::internal(
                "machine_not_reached",
                format!(
                    "Process {rank} of the job does not reach the first one at {place}: {error}. The machines of a job \
                     must reach each other at all ports: give each trainer the address that it has in their network \
                     (`--address` or LUTHIER_ADDRESS), and open that network between them."
                ),
            )
            .into());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Starts the processes of this machine after its first.
fn start_here(
    dir: &Path,
    attempt: u32,
    machines: &Machines,
    size: usize,
    place: SocketAddr,
) -> Result<Vec<Child>> {
    let (first, here) = (machines.first(), machines.here());
    (first + 1..first + here).map(|rank| start(dir, attempt, rank, size, place)).collect()
}

fn start(dir: &Path, attempt: u32, rank: usize, size: usize, place: SocketAddr) -> Result<Child> {
    let program = std::env::current_exe().context("finding this program")?;
    Command::new(program)
        .arg("job")
        .arg(dir)
        .args(["--attempt", &attempt.to_string()])
        .env(RANK, rank.to_string())
        .env(SIZE, size.to_string())
        .env(RENDEZVOUS, place.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting process {rank} of the job"))
}
