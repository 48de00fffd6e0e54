use std::borrow::Borrow;

use tch::{TchError, Tensor};

use super::{Group, ffi};
use crate::Result;

/// How a [`Reducer`] works. The defaults are those of torch's DistributedDataParallel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReducerOptions {
    /// Size of the bucket that is ready first, in bytes: small, so that its exchange begins early. 1 MiB.
    pub first_bucket_bytes: usize,
    /// Size of the others, in bytes. 25 MiB.
    pub bucket_bytes: usize,
    /// Some parameters take no part in some passes. They are looked for in the graph of each loss, and a parameter that
    /// no rank used keeps the gradient it had.
    pub find_unused: bool,
    /// Every pass has the same graph: unused parameters, and parameters that are used several times or are computed
    /// again in backward, are learned in the first pass. That one exchanges everything at its end.
    pub static_graph: bool,
    /// Gradients become views into the buckets, which saves one copy of them all. Off: our optimizers and the norm
    /// take lists of tensors that lie on their own, and [`crate::gradients::clear_grads`] would undo it.
    pub gradient_as_bucket_view: bool,
    /// For each parameter, whether its gradient is sparse COO. Empty: all are dense.
    pub sparse: Vec<bool>,
}

impl Default for ReducerOptions {
    fn default() -> Self {
        Self {
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
            find_unused: false,
            static_graph: false,
            gradient_as_bucket_view: false,
            sparse: Vec::new(),
        }
    }
}

/// Averages gradients over the ranks while backward runs: c10d's Reducer, the engine of DistributedDataParallel.
///
/// Each rank has all parameters and a part of the batch. A hook on each parameter copies its gradient into a bucket;
/// a bucket that is full is summed over the ranks, in another thread, while backward goes on. After
/// [`Reducer::backward`], `grad` of every parameter is the same on all ranks, bit for bit:
///
/// `grad = (grad of rank 0 + … + grad of rank size-1) / size`
///
/// Where the loss of a step is a sum over rows that is divided once by their number `n` in all ranks, let each rank
/// leave its sum undivided and multiply the averaged gradient by `size / n`.
///
/// Accumulation: [`Reducer::set_require_grad_sync`] to false for all micro-batches but the last. Their gradients stay
/// on each rank, and the last backward averages what was accumulated. A gradient that was averaged may be accumulated
/// onto as well: it is the same everywhere, and averaging leaves it so.
///
/// A step is: [`Reducer::prepare_for_forward`], forward, [`Reducer::backward`]. After the first one the buckets are
/// made anew in the order in which gradients came.
///
/// Source: S. Li et al., "PyTorch Distributed: Experiences on accelerating data parallel training", 2020.
#[derive(Debug)]
pub struct Reducer {
    inner: ffi::Reducer,
    require_grad_sync: bool,
    // In a static graph the first pass is the one that counts, so it cannot be left out.
    counts: bool,
}

impl Reducer {
    /// Puts its hooks on `params`, which must be leaves that require gradients, each once, in the same order and with
    /// the same shapes and kinds on all ranks. Their values are to be made equal before ([`Group::broadcast_all`]).
    ///
    /// # Errors
    /// When `params` are empty or not as above, options do not fit, and as the [module](super) says.
    pub fn new<T: Borrow<Tensor>>(group: &Group, params: &[T], options: &ReducerOptions) -> Result<Self> {
        if !options.sparse.is_empty() && options.sparse.len() != params.len() {
            let (found, wanted) = (options.sparse.len(), params.len());
            return Err(TchError::Torch(format!(
                "reducer: `sparse` has {found} values for {wanted} parameters"
            )));
        }
        let inner = ffi::Reducer::new(&group.inner, params, &options.sparse, options)?;
        Ok(Self { inner, require_grad_sync: true, counts: options.static_graph })
    }

    /// Whether the next backward averages. Set it before that step's [`Reducer::prepare_for_forward`].
    ///
    /// With a static graph the first backward always does, which changes no result: see above.
    pub fn set_require_grad_sync(&mut self, sync: bool) {
        self.require_grad_sync = sync;
    }

    fn syncs(&self) -> bool {
        self.require_grad_sync || self.counts
    }

    /// To be called before each forward.
    ///
    /// # Errors
    /// When the last backward was not completed, and as the [module](super) says.
    pub fn prepare_for_forward(&mut self) -> Result<()> {
        if self.syncs() { self.inner.prepare_for_forward() } else { Ok(()) }
    }

    /// Computes the gradients of `loss`, and averages them where the ranks are to do so now.
    ///
    /// # Errors
    /// When a parameter got no gradient and neither `find_unused` nor `static_graph` is set, when backward itself fails,
    /// and as the [module](super) says.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.begin_backward(loss)?;
        loss.f_backward()?;
        self.end_backward()
    }

    /// What comes before a backward pass that begins at `loss`, for a caller whose pass is made in several parts.
    ///
    /// # Errors
    /// As [`Reducer::backward`].
    pub fn begin_backward(&mut self, loss: &Tensor) -> Result<()> {
        if self.syncs() { self.inner.prepare_for_backward(loss) } else { Ok(()) }
    }

    /// What comes after it: an error where a parameter got no gradient.
    ///
    /// # Errors
    /// As [`Reducer::backward`].
    pub fn end_backward(&mut self) -> Result<()> {
        if !self.syncs() {
            return Ok(());
        }
        self.counts = false;
        self.inner.check_finalized()
    }

    /// The number of buckets, each one all-reduce.
    ///
    /// # Errors
    /// When C++ says so.
    pub fn buckets(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.inner.buckets()?).unwrap_or(0))
    }
}
