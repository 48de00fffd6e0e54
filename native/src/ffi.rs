//! The C functions of `cpp/` (the optimizers' in [`crate::ffi_optim`]), and the few lines that turn their pointers into Rust values.
//!
//! Each returns null or a message. A tensor crosses as `at::Tensor*`, which is what tch holds.
#![expect(unsafe_code, reason = "this module is the border to C++")]

use std::borrow::Borrow;
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use tch::{TchError, Tensor};

use crate::Result;

pub(crate) type Message = *mut c_char;
pub(crate) type Ptr = *const c_void;
pub(crate) type List = *const Ptr;
pub(crate) type Out = *mut *mut c_void;

/// `LuthierSgd` in cpp/optim.cpp.
#[repr(C)]
pub(crate) struct Sgd {
    pub lr: f64,
    pub momentum: f64,
    pub dampening: f64,
    pub weight_decay: f64,
    pub scale: f32,
    pub nesterov: bool,
    pub first_step: bool,
}

/// `LuthierRmsprop` in cpp/optim.cpp.
#[repr(C)]
pub(crate) struct Rmsprop {
    pub lr: f64,
    pub alpha: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub momentum: f64,
    pub scale: f32,
    pub centered: bool,
    pub by_ops: bool,
}

/// `PackedHeads` in cpp/attention_ops.h.
#[repr(C)]
pub(crate) struct PackedHeads {
    pub query: i64,
    pub key: i64,
    pub width: i64,
    pub causal: bool,
    pub scale: f64,
    pub first: i64,
    pub window: i64,
    pub cap: f64,
}

unsafe extern "C" {
    fn luthier_free_error(message: Message);
    fn luthier_dropout(x: Ptr, keys: Ptr, offsets: Ptr, p: f64, out: Out) -> Message;
    #[cfg(test)]
    fn luthier_dropout_by_ops(x: Ptr, keys: Ptr, offsets: Ptr, p: f64, out: Out) -> Message;
    fn luthier_packed_attention(
        q: Ptr,
        k: Ptr,
        v: Ptr,
        offsets: Ptr,
        query_offsets: Ptr,
        keys: Ptr,
        p: f64,
        by_distance: Ptr,
        heads: *const PackedHeads,
        by_ops: bool,
        out: Out,
    ) -> Message;
    fn luthier_norm_residual(
        x: Ptr,
        residual: Ptr,
        weight: Ptr,
        bias: Ptr,
        eps: f64,
        keys: Ptr,
        offsets: Ptr,
        p: f64,
        out: Out,
    ) -> Message;
    fn luthier_linear(
        x: Ptr,
        weight: Ptr,
        bias: Ptr,
        params: List,
        n: usize,
        weights: usize,
        out: Out,
    ) -> Message;
    fn luthier_rms_norm(
        x: Ptr,
        residual: Ptr,
        weight: Ptr,
        eps: f64,
        add: f64,
        by_ops: bool,
        out: Out,
        sum: Out,
    ) -> Message;
    fn luthier_rotary(
        x: Ptr,
        cos: Ptr,
        sin: Ptr,
        positions: Ptr,
        heads: i64,
        width: i64,
        by_ops: bool,
        out: Out,
    ) -> Message;
    fn luthier_low_rank(
        base: Ptr,
        x: Ptr,
        numbers: List,
        params: List,
        starts: *const i64,
        k: usize,
        scale: f64,
        out: Out,
    ) -> Message;
    fn luthier_linear_of_few(x: Ptr, weight: Ptr, bias: Ptr, out: Out) -> Message;
    fn luthier_decode_attention(
        joined: Ptr,
        kept: List,
        lengths: *const i64,
        n: usize,
        by_distance: Ptr,
        heads: *const PackedHeads,
        out: Out,
    ) -> Message;
    fn luthier_gated(x: Ptr, act: i64, by_ops: bool, out: Out) -> Message;
    fn luthier_cross_entropy(
        x: Ptr,
        weight: Ptr,
        param: Ptr,
        targets: Ptr,
        weights: Ptr,
        bias: Ptr,
        cap: f64,
        chunk: i64,
        by_ops: bool,
        total: Out,
        losses: Out,
        right: Out,
    ) -> Message;
    fn luthier_nf4_dequantize(parts: List, n: usize, rows: i64, columns: i64, out: Out) -> Message;
    fn luthier_nf4_linear(x: Ptr, bias: Ptr, parts: List, n: usize, rows: i64, out: Out) -> Message;
    fn luthier_grad_norm(grads: List, n: usize, out: Out) -> Message;
    fn luthier_clip_grad_norm(grads: List, n: usize, max_norm: f64, out: Out) -> Message;
    fn luthier_scale_grads(grads: List, n: usize, factor: f64) -> Message;
    fn luthier_backward(of: Ptr, grad: Ptr) -> Message;
    fn luthier_set_grad(tensor: Ptr, grad: Ptr) -> Message;
    fn luthier_coalesce_grads(tensors: List, n: usize) -> Message;
    fn luthier_clear_grads(tensors: List, n: usize) -> Message;
    fn luthier_sgd(params: List, grads: List, momentums: List, n: usize, options: *const Sgd) -> Message;
    fn luthier_rmsprop(
        params: List,
        grads: List,
        square_avgs: List,
        grad_avgs: List,
        momentums: List,
        n: usize,
        options: *const Rmsprop,
    ) -> Message;
    fn luthier_set_threads(threads: i64) -> Message;
    fn luthier_threads(out: *mut i64) -> Message;
    fn luthier_set_deterministic(on: bool) -> Message;
    fn luthier_set_tf32(on: bool) -> Message;
    fn luthier_compute_capability(major: *mut i32, minor: *mut i32) -> bool;
    fn luthier_set_flush_denormals(on: bool, supported: *mut bool) -> Message;
    fn luthier_header_version() -> *const c_char;
    fn luthier_show_config(out: *mut Message) -> Message;
    fn luthier_cpu_library() -> Message;
    fn luthier_has_driver() -> bool;
    fn luthier_open_global(path: *const c_char) -> Message;
}

/// Takes a message of C++ and frees it; `None` for null.
fn take(message: Message) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: not null, made by strdup in cpp/, and read before the one call that frees it.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        luthier_free_error(message);
        Some(text)
    }
}

pub(crate) fn check(message: Message) -> Result<()> {
    take(message).map_or(Ok(()), |text| Err(TchError::Torch(text)))
}

pub(crate) fn ptr_of(tensor: &Tensor) -> Ptr {
    tensor.as_ptr().cast()
}

/// Pointers to tensors that outlive the call, as the slice they came from is borrowed by it.
pub(crate) fn list<T: Borrow<Tensor>>(tensors: &[T]) -> Vec<Ptr> {
    tensors.iter().map(|t| ptr_of(t.borrow())).collect()
}

/// A list that must be as long as another one; C++ reads `n` pointers from it.
pub(crate) fn list_of<T: Borrow<Tensor>>(tensors: &[T], n: usize, what: &str) -> Result<Vec<Ptr>> {
    if tensors.len() == n {
        return Ok(list(tensors));
    }
    let found = tensors.len();
    Err(TchError::Torch(format!("{what}: {found} tensors for {n} parameters")))
}

pub(crate) fn tensor_from(call: impl FnOnce(Out) -> Message) -> Result<Tensor> {
    let mut out = ptr::null_mut();
    check(call(&mut out))?;
    // SAFETY: C++ returned no error, so it stored a tensor made by `new`, which is ours now.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

fn ptr_or_null(tensor: Option<&Tensor>) -> Ptr {
    tensor.map_or(ptr::null(), ptr_of)
}

pub(crate) fn dropout(x: &Tensor, keys: &Tensor, offsets: Option<&Tensor>, p: f64) -> Result<Tensor> {
    // SAFETY (here and below): pointers come from live borrows and are not kept by C++.
    tensor_from(|out| unsafe { luthier_dropout(ptr_of(x), ptr_of(keys), ptr_or_null(offsets), p, out) })
}

#[cfg(test)]
pub(crate) fn dropout_by_ops(x: &Tensor, keys: &Tensor, offsets: Option<&Tensor>, p: f64) -> Result<Tensor> {
    tensor_from(|out| unsafe {
        luthier_dropout_by_ops(ptr_of(x), ptr_of(keys), ptr_or_null(offsets), p, out)
    })
}

/// What [`packed_attention`] computes. Without `key` the query holds all three side by side, without `value` the key
/// holds both.
pub(crate) struct PackedAttention<'a> {
    pub query: &'a Tensor,
    pub key: Option<&'a Tensor>,
    pub value: Option<&'a Tensor>,
    pub offsets: &'a Tensor,
    pub query_offsets: Option<&'a Tensor>,
    pub keys: Option<&'a Tensor>,
    pub p: f64,
    pub by_distance: Option<&'a Tensor>,
    pub heads: PackedHeads,
    pub by_ops: bool,
}

pub(crate) fn packed_attention(it: &PackedAttention) -> Result<Tensor> {
    tensor_from(|out| unsafe {
        luthier_packed_attention(
            ptr_of(it.query),
            ptr_or_null(it.key),
            ptr_or_null(it.value),
            ptr_of(it.offsets),
            ptr_or_null(it.query_offsets),
            ptr_or_null(it.keys),
            it.p,
            ptr_or_null(it.by_distance),
            &it.heads,
            it.by_ops,
            out,
        )
    })
}

pub(crate) fn decode_attention<T: Borrow<Tensor>>(
    joined: &Tensor,
    kept: &[T],
    lengths: &[i64],
    by_distance: Option<&Tensor>,
    heads: &PackedHeads,
) -> Result<Tensor> {
    assert_eq!(kept.len(), lengths.len(), "a length for each sequence");
    let kept = list(kept);
    tensor_from(|out| unsafe {
        luthier_decode_attention(
            ptr_of(joined),
            kept.as_ptr(),
            lengths.as_ptr(),
            kept.len(),
            ptr_or_null(by_distance),
            heads,
            out,
        )
    })
}

/// Dropout of a part of a sum: probability, keys, and offsets where rows are packed.
pub(crate) type Drop<'a> = (f64, &'a Tensor, Option<&'a Tensor>);

pub(crate) fn norm_residual(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    drop: Option<Drop>,
) -> Result<Tensor> {
    let (p, keys, offsets) = drop.map_or((0.0, None, None), |(p, keys, offsets)| (p, Some(keys), offsets));
    tensor_from(|out| unsafe {
        luthier_norm_residual(
            ptr_of(x),
            ptr_or_null(residual),
            ptr_of(weight),
            ptr_of(bias),
            eps,
            ptr_or_null(keys),
            ptr_or_null(offsets),
            p,
            out,
        )
    })
}

pub(crate) fn linear<T: Borrow<Tensor>>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    params: &[T],
    weights: usize,
) -> Result<Tensor> {
    let params = list(params);
    tensor_from(|out| unsafe {
        luthier_linear(
            ptr_of(x),
            ptr_of(weight),
            ptr_or_null(bias),
            params.as_ptr(),
            params.len(),
            weights,
            out,
        )
    })
}

pub(crate) fn linear_of_few(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    tensor_from(|out| unsafe { luthier_linear_of_few(ptr_of(x), ptr_of(weight), ptr_or_null(bias), out) })
}

/// Two tensors of `numbers` and of `params` for each start.
pub(crate) fn low_rank(
    base: &Tensor,
    x: &Tensor,
    numbers: &[&Tensor],
    params: &[&Tensor],
    starts: &[i64],
    scale: f64,
) -> Result<Tensor> {
    let k = starts.len();
    let (numbers, params) =
        (list_of(numbers, 2 * k, "numbers")?, list_of(params, 2 * k, "parameters of adapters")?);
    tensor_from(|out| unsafe {
        luthier_low_rank(
            ptr_of(base),
            ptr_of(x),
            numbers.as_ptr(),
            params.as_ptr(),
            starts.as_ptr(),
            k,
            scale,
            out,
        )
    })
}

/// The norm, and the sum where there is a residual.
pub(crate) fn rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    eps: f64,
    add: f64,
    by_ops: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let mut sum = ptr::null_mut();
    let out = tensor_from(|out| unsafe {
        luthier_rms_norm(ptr_of(x), ptr_or_null(residual), ptr_of(weight), eps, add, by_ops, out, &mut sum)
    })?;
    // SAFETY: not null only where C++ stored a tensor made by `new`, which is ours now.
    let sum = (!sum.is_null()).then(|| unsafe { Tensor::from_ptr(sum.cast()) });
    Ok((out, sum))
}

pub(crate) fn rotary(
    x: &Tensor,
    angles: (&Tensor, &Tensor),
    positions: &Tensor,
    heads: i64,
    width: i64,
    by_ops: bool,
) -> Result<Tensor> {
    let (cos, sin) = (ptr_of(angles.0), ptr_of(angles.1));
    tensor_from(|out| unsafe {
        luthier_rotary(ptr_of(x), cos, sin, ptr_of(positions), heads, width, by_ops, out)
    })
}

pub(crate) fn gated(x: &Tensor, act: i64, by_ops: bool) -> Result<Tensor> {
    tensor_from(|out| unsafe { luthier_gated(ptr_of(x), act, by_ops, out) })
}

/// What [`cross_entropy`] computes.
pub(crate) struct CrossEntropy<'a> {
    pub x: &'a Tensor,
    pub weight: &'a Tensor,
    pub param: &'a Tensor,
    pub targets: &'a Tensor,
    pub weights: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub cap: f64,
    pub chunk: i64,
    pub by_ops: bool,
}

/// The weighted sum of the losses, each loss, and 1 where the target has the greatest logit.
pub(crate) fn cross_entropy(it: &CrossEntropy) -> Result<[Tensor; 3]> {
    let mut rest = [ptr::null_mut(); 2];
    let [losses, right] = &mut rest;
    let total = tensor_from(|total| unsafe {
        luthier_cross_entropy(
            ptr_of(it.x),
            ptr_of(it.weight),
            ptr_of(it.param),
            ptr_of(it.targets),
            ptr_of(it.weights),
            ptr_or_null(it.bias),
            it.cap,
            it.chunk,
            it.by_ops,
            total,
            losses,
            right,
        )
    })?;
    // SAFETY: C++ returned no error, so it stored tensors made by `new`, which are ours now.
    let [losses, right] = rest.map(|tensor| unsafe { Tensor::from_ptr(tensor.cast()) });
    Ok([total, losses, right])
}

pub(crate) fn nf4_dequantize(parts: &[&Tensor], rows: i64, columns: i64) -> Result<Tensor> {
    let parts = list(parts);
    tensor_from(|out| unsafe { luthier_nf4_dequantize(parts.as_ptr(), parts.len(), rows, columns, out) })
}

pub(crate) fn nf4_linear(x: &Tensor, bias: Option<&Tensor>, parts: &[&Tensor], rows: i64) -> Result<Tensor> {
    let parts = list(parts);
    tensor_from(|out| unsafe {
        luthier_nf4_linear(ptr_of(x), ptr_or_null(bias), parts.as_ptr(), parts.len(), rows, out)
    })
}

pub(crate) fn allocated_bytes() -> u64 {
    // SAFETY: it takes nothing and returns a value.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

pub(crate) fn map(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the caller's files are written once and renamed into place, so that they do not change under the map.
    unsafe { memmap2::Mmap::map(file) }
}

pub(crate) fn grad_norm<T: Borrow<Tensor>>(grads: &[T]) -> Result<Tensor> {
    let grads = list(grads);
    tensor_from(|out| unsafe { luthier_grad_norm(grads.as_ptr(), grads.len(), out) })
}

pub(crate) fn clip_grad_norm<T: Borrow<Tensor>>(grads: &[T], max_norm: f64) -> Result<Tensor> {
    let grads = list(grads);
    tensor_from(|out| unsafe { luthier_clip_grad_norm(grads.as_ptr(), grads.len(), max_norm, out) })
}

pub(crate) fn scale_grads<T: Borrow<Tensor>>(grads: &[T], factor: f64) -> Result<()> {
    let grads = list(grads);
    check(unsafe { luthier_scale_grads(grads.as_ptr(), grads.len(), factor) })
}

pub(crate) fn backward(of: &Tensor, grad: &Tensor) -> Result<()> {
    check(unsafe { luthier_backward(ptr_of(of), ptr_of(grad)) })
}

pub(crate) fn set_grad(tensor: &Tensor, grad: &Tensor) -> Result<()> {
    check(unsafe { luthier_set_grad(ptr_of(tensor), ptr_of(grad)) })
}

pub(crate) fn coalesce_grads<T: Borrow<Tensor>>(tensors: &[T]) -> Result<()> {
    let tensors = list(tensors);
    check(unsafe { luthier_coalesce_grads(tensors.as_ptr(), tensors.len()) })
}

pub(crate) fn clear_grads<T: Borrow<Tensor>>(tensors: &[T]) -> Result<()> {
    let tensors = list(tensors);
    check(unsafe { luthier_clear_grads(tensors.as_ptr(), tensors.len()) })
}

pub(crate) fn sgd<T: Borrow<Tensor>>(
    params: &[T],
    grads: &[T],
    momentums: &[T],
    options: &Sgd,
) -> Result<()> {
    let n = params.len();
    let momentum_n = if options.momentum == 0.0 { 0 } else { n };
    let params = list(params);
    let grads = list_of(grads, n, "gradients")?;
    let momentums = list_of(momentums, momentum_n, "momentum_buffer")?;
    check(unsafe { luthier_sgd(params.as_ptr(), grads.as_ptr(), momentums.as_ptr(), n, options) })
}

/// The lists of one RMSprop step, each as long as `params` or empty where the options say so.
pub(crate) struct RmspropLists<'a, T> {
    pub params: &'a [T],
    pub grads: &'a [T],
    pub square_avgs: &'a [T],
    pub grad_avgs: &'a [T],
    pub momentums: &'a [T],
}

pub(crate) fn rmsprop<T: Borrow<Tensor>>(lists: &RmspropLists<T>, options: &Rmsprop) -> Result<()> {
    let n = lists.params.len();
    let params = list(lists.params);
    let grads = list_of(lists.grads, n, "gradients")?;
    let square_avgs = list_of(lists.square_avgs, n, "square_avg")?;
    let grad_avgs = list_of(lists.grad_avgs, if options.centered { n } else { 0 }, "grad_avg")?;
    let momentum_n = if options.momentum > 0.0 { n } else { 0 };
    let momentums = list_of(lists.momentums, momentum_n, "momentum_buffer")?;
    check(unsafe {
        luthier_rmsprop(
            params.as_ptr(),
            grads.as_ptr(),
            square_avgs.as_ptr(),
            grad_avgs.as_ptr(),
            momentums.as_ptr(),
            n,
            options,
        )
    })
}

pub(crate) fn set_threads(threads: usize) -> Result<()> {
    check(unsafe { luthier_set_threads(i64::try_from(threads).unwrap_or(i64::MAX)) })
}

pub(crate) fn threads() -> Result<i64> {
    let mut out = 0;
    check(unsafe { luthier_threads(&mut out) })?;
    Ok(out)
}

pub(crate) fn set_deterministic(on: bool) -> Result<()> {
    check(unsafe { luthier_set_deterministic(on) })
}

pub(crate) fn set_tf32(on: bool) -> Result<()> {
    check(unsafe { luthier_set_tf32(on) })
}

pub(crate) fn compute_capability() -> Option<(i32, i32)> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two numbers are written, and only where the answer is true do they mean something.
    unsafe { luthier_compute_capability(&mut major, &mut minor) }.then_some((major, minor))
}

pub(crate) fn set_flush_denormals(on: bool) -> Result<bool> {
    let mut supported = false;
    check(unsafe { luthier_set_flush_denormals(on, &mut supported) })?;
    Ok(supported)
}

pub(crate) fn header_version() -> String {
    // SAFETY: a string constant of the compiled C++.
    unsafe { CStr::from_ptr(luthier_header_version()) }.to_string_lossy().into_owned()
}

pub(crate) fn show_config() -> Result<String> {
    let mut out = ptr::null_mut();
    check(unsafe { luthier_show_config(&mut out) })?;
    Ok(take(out).unwrap_or_default())
}

pub(crate) fn cpu_library() -> Option<PathBuf> {
    take(unsafe { luthier_cpu_library() }).map(PathBuf::from)
}

pub(crate) fn has_driver() -> bool {
    unsafe { luthier_has_driver() }
}

/// Opens a library for good, with its symbols visible to those that follow.
pub(crate) fn open_global(path: &Path) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    check(unsafe { luthier_open_global(path.as_ptr()) })
}

#[cfg(test)]
pub(crate) mod tests {
    use tch::{Device, Kind, Tensor};

    /// A tensor of normal numbers that wants a gradient.
    pub(crate) fn leaf(shape: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind).set_requires_grad(true)
    }

    /// Whether tensors are alike, each relative to the greatest number that is expected.
    #[track_caller]
    pub(crate) fn close(found: &[Tensor], expected: &[Tensor], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
            let greatest = expected.abs().max().double_value(&[]).max(1e-30);
            let off = (found - expected).abs().max().double_value(&[]) / greatest;
            assert!(off <= tolerance, "tensor {at} is off by {off:e}");
        }
    }
}
