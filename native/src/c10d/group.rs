use std::borrow::Borrow;
use std::time::Duration;

use tch::{Kind, TchError, Tensor};

use super::store::number;
use super::{Reduce, Store, ffi};
use crate::{Result, cuda};

const NCCL_LIBRARY: &str = "libluthier_nccl.so";

/// The ranks that compute together, over Gloo (tensors in main memory, TCP between the processes) or NCCL (GPUs).
///
/// See the [module](super) on order and errors. Tensors may be of any kind that Gloo knows: fp32, fp64, fp16, bf16,
/// Int8, Uint8, Int and Int64. Nothing here is recorded by autograd; [`super::autograd`] is.
#[derive(Debug)]
pub struct Group {
    pub(super) inner: ffi::Group,
    rank: usize,
    size: usize,
    timeout: Duration,
}

/// An all-reduce or a sending under way; see [`Group::all_reduce_start`] and [`Group::send_start`].
#[derive(Debug)]
#[must_use = "the tensor is undefined until `wait` returns"]
pub struct Work(ffi::Work);

impl Work {
    /// Waits until the tensor holds the result.
    ///
    /// # Errors
    /// As the collective itself.
    pub fn wait(self) -> Result<()> {
        self.0.wait()
    }
}

impl Group {
    /// Joins the group; returns when all `size` ranks have.
    ///
    /// - `store`: the same for all ranks, and not used by another group, see [`Store::with_prefix`];
    /// - `rank`: 0 to `size` - 1, each taken once;
    /// - `timeout`: how long any collective may take. It must cover what one rank computes longer than another;
    /// - `host`: the address of this machine at which the other ranks reach this one, `127.0.0.1` on one machine.
    ///
    /// # Errors
    /// When the build has no Gloo, `host` is no address of this machine, or the others do not come in time.
    pub fn gloo(store: &Store, rank: usize, size: usize, timeout: Duration, host: &str) -> Result<Self> {
        let (r, s) = (number(below(rank, size)?, "rank")?, number(size, "size")?);
        Ok(Self { inner: ffi::Group::gloo(&store.inner, r, s, timeout, host)?, rank, size, timeout })
    }

    /// Joins a group over NCCL: tensors on GPUs, each rank on one of its own.
    ///
    /// - `store`, `rank`, `size`, `timeout`: as for [`Group::gloo`];
    /// - `device`: the GPU of this rank, as in [`tch::Device::Cuda`].
    ///
    /// Collectives are put on the GPU's stream and return before they are done. NCCL's watchdog looks after them: where
    /// a peer does not come within `timeout`, it ends the process, and no error comes back.
    ///
    /// **This has not run on a GPU**: it was compiled, and its library opened, on a machine without one.
    ///
    /// # Errors
    /// When there is no GPU, or `libluthier_nccl.so`, which set-up compiles where there is one, does not lie beside
    /// `libtorch_cuda.so`.
    pub fn nccl(store: &Store, rank: usize, size: usize, timeout: Duration, device: usize) -> Result<Self> {
        let library = cuda::find(None, NCCL_LIBRARY).ok_or_else(|| {
            TchError::Torch(format!("NCCL: no {NCCL_LIBRARY}, which `make setup` compiles for a GPU"))
        })?;
        let (r, s) = (number(below(rank, size)?, "rank")?, number(size, "size")?);
        let inner = ffi::Group::nccl(&store.inner, (r, s), timeout, number(device, "device")?, &library)?;
        Ok(Self { inner, rank, size, timeout })
    }

    /// A second handle of the same group. Both are for one thread at a time, together.
    ///
    /// # Errors
    /// When memory is short.
    pub fn again(&self) -> Result<Self> {
        Ok(Self { inner: self.inner.again()?, ..*self })
    }

    /// This process's number.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// How long a collective may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Replaces `tensor` on every rank by the reduction over the ranks.
    ///
    /// # Errors
    /// When `tensor` is not dense and contiguous, and as the [module](super) says.
    pub fn all_reduce(&self, tensor: &Tensor, op: Reduce) -> Result<()> {
        self.inner.all_reduce(tensor, op)
    }

    /// [`Group::all_reduce`] without waiting: `tensor` is undefined until [`Work::wait`].
    ///
    /// # Errors
    /// As [`Group::all_reduce`]; those of the exchange itself come from [`Work::wait`].
    pub fn all_reduce_start(&self, tensor: &Tensor, op: Reduce) -> Result<Work> {
        self.inner.all_reduce_start(tensor, op).map(Work)
    }

    /// Replaces `tensor` on every rank by that of rank `root`.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        self.inner.broadcast(tensor, self.peer(root)?)
    }

    /// The `[n, …]` of each rank, one after the other: `[size · n, …]`. A scalar counts as `[1]`.
    ///
    /// # Errors
    /// As the [module](super) says.
    pub fn all_gather(&self, own: &Tensor) -> Result<Tensor> {
        self.inner.all_gather(own)
    }

    /// The part of this rank, `[n, …]`, of the sum of all ranks' `[size · n, …]`.
    ///
    /// # Errors
    /// When the first dimension is no multiple of `size`, and as the [module](super) says.
    pub fn reduce_scatter(&self, all: &Tensor) -> Result<Tensor> {
        self.inner.reduce_scatter(all)
    }

    /// Waits until every rank is here.
    ///
    /// # Errors
    /// As the [module](super) says.
    pub fn barrier(&self) -> Result<()> {
        self.inner.barrier()
    }

    /// Sends `tensor` to a rank that receives one of the same shape and kind under the same `tag`; waits until it is
    /// sent.
    ///
    /// # Errors
    /// When `to` is this rank, and as the [module](super) says.
    pub fn send(&self, tensor: &Tensor, to: usize, tag: u16) -> Result<()> {
        self.inner.send(tensor, self.peer(to)?, i64::from(tag))
    }

    /// [`Group::send`] without waiting: two ranks that send to each other would wait for each other's `recv`. `tensor`
    /// must not change until [`Work::wait`]; it is kept alive until then.
    ///
    /// # Errors
    /// As [`Group::send`]; those of the sending itself come from [`Work::wait`].
    pub fn send_start(&self, tensor: &Tensor, to: usize, tag: u16) -> Result<Work> {
        self.inner.send_start(tensor, self.peer(to)?, i64::from(tag)).map(Work)
    }

    /// Fills `tensor` with what rank `from` sends under `tag`.
    ///
    /// # Errors
    /// As [`Group::send`].
    pub fn recv(&self, tensor: &Tensor, from: usize, tag: u16) -> Result<()> {
        self.inner.recv(tensor, self.peer(from)?, i64::from(tag))
    }

    /// The gradient of an embedding from the rows that each rank touched, without exchanging the others.
    ///
    /// - `indices`: Int64 `[n]`, rows in 0 to `rows`; repeats are allowed. `n` may differ between ranks, and be 0;
    /// - `values`: `[n, …]`;
    /// - `op`: [`Reduce::Sum`], or [`Reduce::Avg`], which divides by the number of ranks.
    ///
    /// Returns a sparse COO `[rows, …]` that holds all ranks' rows in rank order: not coalesced, values of equal
    /// indices are to be added. Every rank has the same bits. What is sent is the largest `n`, from every rank.
    ///
    /// # Errors
    /// When shapes or kinds are not as above, an index lies outside, and as the [module](super) says.
    pub fn all_reduce_rows(
        &self,
        indices: &Tensor,
        values: &Tensor,
        rows: i64,
        op: Reduce,
    ) -> Result<Tensor> {
        self.inner.all_reduce_rows(indices, values, rows, op)
    }

    /// Makes each of `tensors` on every rank that of rank `root`, as the ranks must begin with the same weights.
    ///
    /// # Errors
    /// As [`Group::all_reduce`].
    pub fn broadcast_all<T: Borrow<Tensor>>(&self, tensors: &[T], root: usize) -> Result<()> {
        tensors.iter().try_for_each(|tensor| self.broadcast(tensor.borrow(), root))
    }

    /// Whether `value` is the same on every rank; to be asked of a hash of settings and data before training.
    ///
    /// # Errors
    /// As the [module](super) says.
    pub fn agrees(&self, value: i64) -> Result<bool> {
        let pair = Tensor::f_from_slice(&[value, value.wrapping_neg()])?;
        self.all_reduce(&pair, Reduce::Max)?;
        let [most, least_negated] = <[i64; 2]>::try_from(Vec::<i64>::try_from(pair.to_kind(Kind::Int64))?)
            .map_err(|_| TchError::Torch("agrees: not two numbers".into()))?;
        Ok(most == least_negated.wrapping_neg())
    }

    pub(super) fn peer(&self, rank: usize) -> Result<i64> {
        Ok(i64::from(number(below(rank, self.size)?, "rank")?))
    }
}

fn below(rank: usize, size: usize) -> Result<usize> {
    if rank < size {
        return Ok(rank);
    }
    Err(TchError::Torch(format!("rank {rank} of {size}: ranks count from 0")))
}
