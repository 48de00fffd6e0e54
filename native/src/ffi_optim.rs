//! The C functions of the optimizers, as [`crate::ffi`] has the others.
#![expect(unsafe_code, reason = "this module is the border to C++")]

use std::borrow::Borrow;
use std::ptr;

use tch::Tensor;

use crate::Result;
use crate::ffi::{List, Message, Out, Ptr, check, list, list_of, ptr_of, tensor_from};

/// `LuthierAdam` in cpp/optim.h.
#[repr(C)]
pub(crate) struct Adam {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub scale: f32,
    pub amsgrad: bool,
    pub decoupled: bool,
}

/// `LuthierAdamMore` in cpp/adam.cpp.
#[repr(C)]
struct AdamMore {
    shadows: List,
    compensations: List,
    indices: *const u32,
    seed: u64,
}

/// `LuthierLion` in cpp/lion.cpp.
#[repr(C)]
pub(crate) struct Lion {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub scale: f32,
    pub by_ops: bool,
}

/// `LuthierAdafactor` in cpp/adafactor.cpp.
#[repr(C)]
pub(crate) struct Adafactor {
    pub lr: f64,
    pub beta2: f64,
    pub beta1: f64,
    pub eps_square: f64,
    pub eps_scale: f64,
    pub clip_threshold: f64,
    pub weight_decay: f64,
    pub scale: f32,
    pub scale_parameter: bool,
    pub by_ops: bool,
}

/// `LuthierAdafactorState` in cpp/adafactor.cpp.
#[repr(C)]
struct AdafactorParts {
    row: Ptr,
    col: Ptr,
    square: Ptr,
    exp_avg: Ptr,
}

/// `LuthierMuon` in cpp/muon.cpp.
#[repr(C)]
pub(crate) struct Muon {
    pub lr: f64,
    pub adjusted_lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub eps: f64,
    pub ns_steps: i64,
    pub scale: f32,
    pub nesterov: bool,
}

unsafe extern "C" {
    fn luthier_adam(
        params: List,
        grads: List,
        exp_avgs: List,
        exp_avg_sqs: List,
        max_exp_avg_sqs: List,
        steps: List,
        n: usize,
        options: *const Adam,
        more: *const AdamMore,
    ) -> Message;
    fn luthier_sparse_adam(
        params: List,
        grads: List,
        exp_avgs: List,
        exp_avg_sqs: List,
        steps: List,
        n: usize,
        options: *const Adam,
        by_ops: bool,
    ) -> Message;
    fn luthier_adamw_8bit(
        params: List,
        grads: List,
        exp_avgs: List,
        absmaxs: List,
        exp_avg_sqs: List,
        absmax_sqs: List,
        steps: List,
        n: usize,
        options: *const Adam,
        by_ops: bool,
    ) -> Message;
    fn luthier_lion(params: List, grads: List, exp_avgs: List, n: usize, options: *const Lion) -> Message;
    fn luthier_adafactor(
        param: Ptr,
        grad: Ptr,
        state: *const AdafactorParts,
        options: *const Adafactor,
    ) -> Message;
    fn luthier_muon(params: List, grads: List, momentums: List, options: *const Muon, n: usize) -> Message;
    fn luthier_orthogonalize(matrix: Ptr, steps: i64, eps: f64, out: Out) -> Message;
}

/// The lists of one Adam step, each as long as `params` or empty where the options say so.
pub(crate) struct AdamLists<'a, T> {
    pub params: &'a [T],
    pub grads: &'a [T],
    pub exp_avgs: &'a [T],
    pub exp_avg_sqs: &'a [T],
    /// Empty without amsgrad.
    pub max_exp_avg_sqs: &'a [T],
    pub steps: &'a [T],
}

/// What goes beyond torch.optim; empty lists for none.
pub(crate) struct AdamExtra<'a, T> {
    pub shadows: &'a [T],
    pub compensations: &'a [T],
    /// Seed and indices of stochastic rounding.
    pub stochastic: Option<(u64, &'a [u32])>,
}

/// A list of `n`, or null for an empty one.
fn optional<T: Borrow<Tensor>>(tensors: &[T], n: usize, what: &str) -> Result<Option<Vec<Ptr>>> {
    (!tensors.is_empty()).then(|| list_of(tensors, n, what)).transpose()
}

fn or_null(list: Option<&Vec<Ptr>>) -> List {
    list.map_or(ptr::null(), |list| list.as_ptr())
}

pub(crate) fn adam<T: Borrow<Tensor>>(
    lists: &AdamLists<T>,
    extra: &AdamExtra<T>,
    options: &Adam,
) -> Result<()> {
    let n = lists.params.len();
    let max_n = if options.amsgrad { n } else { 0 };
    let params = list(lists.params);
    let grads = list_of(lists.grads, n, "gradients")?;
    let exp_avgs = list_of(lists.exp_avgs, n, "exp_avg")?;
    let exp_avg_sqs = list_of(lists.exp_avg_sqs, n, "exp_avg_sq")?;
    let max_exp_avg_sqs = list_of(lists.max_exp_avg_sqs, max_n, "max_exp_avg_sq")?;
    let steps = list_of(lists.steps, n, "step")?;
    let shadows = optional(extra.shadows, n, "shadow")?;
    let compensations = optional(extra.compensations, n, "compensation")?;
    let (seed, indices) = extra.stochastic.unwrap_or_default();
    if extra.stochastic.is_some() && indices.len() != n {
        let found = indices.len();
        return Err(tch::TchError::Torch(format!("indices: {found} for {n} parameters")));
    }
    let more = AdamMore {
        shadows: or_null(shadows.as_ref()),
        compensations: or_null(compensations.as_ref()),
        indices: extra.stochastic.map_or(ptr::null(), |(_, indices)| indices.as_ptr()),
        seed,
    };
    // SAFETY (here and below): pointers come from live borrows, lists are as long as `n` says, and
    // C++ keeps nothing.
    check(unsafe {
        luthier_adam(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            max_exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            n,
            options,
            &more,
        )
    })
}

pub(crate) fn sparse_adam<T: Borrow<Tensor>>(
    lists: &AdamLists<T>,
    options: &Adam,
    by_ops: bool,
) -> Result<()> {
    let n = lists.params.len();
    let params = list(lists.params);
    let grads = list_of(lists.grads, n, "gradients")?;
    let exp_avgs = list_of(lists.exp_avgs, n, "exp_avg")?;
    let exp_avg_sqs = list_of(lists.exp_avg_sqs, n, "exp_avg_sq")?;
    let steps = list_of(lists.steps, n, "step")?;
    check(unsafe {
        luthier_sparse_adam(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            n,
            options,
            by_ops,
        )
    })
}

/// The lists of one AdamW step with moments of a byte a number, each as long as `params`.
pub(crate) struct Adam8bitLists<'a, T> {
    pub params: &'a [T],
    pub grads: &'a [T],
    pub exp_avgs: &'a [T],
    pub absmaxs: &'a [T],
    pub exp_avg_sqs: &'a [T],
    pub absmax_sqs: &'a [T],
    pub steps: &'a [T],
}

pub(crate) fn adamw_8bit<T: Borrow<Tensor>>(
    lists: &Adam8bitLists<T>,
    options: &Adam,
    by_ops: bool,
) -> Result<()> {
    let n = lists.params.len();
    let params = list(lists.params);
    let grads = list_of(lists.grads, n, "gradients")?;
    let exp_avgs = list_of(lists.exp_avgs, n, "exp_avg")?;
    let absmaxs = list_of(lists.absmaxs, n, "exp_avg_absmax")?;
    let exp_avg_sqs = list_of(lists.exp_avg_sqs, n, "exp_avg_sq")?;
    let absmax_sqs = list_of(lists.absmax_sqs, n, "exp_avg_sq_absmax")?;
    let steps = list_of(lists.steps, n, "step")?;
    check(unsafe {
        luthier_adamw_8bit(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            absmaxs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            absmax_sqs.as_ptr(),
            steps.as_ptr(),
            n,
            options,
            by_ops,
        )
    })
}

pub(crate) fn lion<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    exp_avgs: &[T],
    options: &Lion,
) -> Result<()> {
    let n = params.len();
    let params = list(params);
    let grads = list_of(grads, n, "gradients")?;
    let exp_avgs = list_of(exp_avgs, n, "exp_avg")?;
    check(unsafe { luthier_lion(params.as_ptr(), grads.as_ptr(), exp_avgs.as_ptr(), n, options) })
}

/// State of one parameter.
pub(crate) struct AdafactorState<'a> {
    pub row: Option<&'a Tensor>,
    pub col: Option<&'a Tensor>,
    pub square: Option<&'a Tensor>,
    pub exp_avg: Option<&'a Tensor>,
}

pub(crate) fn adafactor(
    param: &Tensor,
    grad: &Tensor,
    state: &AdafactorState,
    options: &Adafactor,
) -> Result<()> {
    let part = |tensor: Option<&Tensor>| tensor.map_or(ptr::null(), ptr_of);
    let parts = AdafactorParts {
        row: part(state.row),
        col: part(state.col),
        square: part(state.square),
        exp_avg: part(state.exp_avg),
    };
    check(unsafe { luthier_adafactor(ptr_of(param), ptr_of(grad), &parts, options) })
}

/// `options` one a parameter.
pub(crate) fn muon<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    momentums: &[T],
    options: &[Muon],
) -> Result<()> {
    let n = options.len();
    let params = list_of(params, n, "parameters")?;
    let grads = list_of(grads, n, "gradients")?;
    let momentums = list_of(momentums, n, "momentum_buffer")?;
    check(unsafe { luthier_muon(params.as_ptr(), grads.as_ptr(), momentums.as_ptr(), options.as_ptr(), n) })
}

pub(crate) fn orthogonalize(matrix: &Tensor, steps: i64, eps: f64) -> Result<Tensor> {
    tensor_from(|out| unsafe { luthier_orthogonalize(ptr_of(matrix), steps, eps, out) })
}
