//! The C functions of `cpp/c10d.cpp`, `cpp/c10d_autograd.cpp` and `cpp/reducer.cpp`.
#![expect(unsafe_code, reason = "this module is the border to C++")]

use std::borrow::Borrow;
use std::ffi::{CString, c_char, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::{Kind, Tensor};

use super::Reduce;
use crate::Result;
use crate::ffi::{List, Message, Out, Ptr, check, list, ptr_of, tensor_from};

/// `LuthierReducer` in cpp/reducer.cpp.
#[repr(C)]
struct ReducerOptions {
    first_bucket_bytes: i64,
    bucket_bytes: i64,
    find_unused: bool,
    static_graph: bool,
    bucket_view: bool,
}

/// The collectives that autograd knows, as cpp/c10d_autograd.cpp numbers them.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(super) enum Along {
    Copy = 0,
    Sum = 1,
    Gather = 2,
    Scatter = 3,
}

unsafe extern "C" {
    fn luthier_has_gloo() -> bool;
    fn luthier_store_tcp(host: *const c_char, port: u16, listener: i32, timeout_ms: i64, out: Out)
    -> Message;
    fn luthier_store_file(path: *const c_char, size: i32, timeout_ms: i64, out: Out) -> Message;
    fn luthier_store_prefix(store: Ptr, prefix: *const c_char, out: Out) -> Message;
    fn luthier_store_set(store: Ptr, key: *const c_char, bytes: *const u8, n: usize) -> Message;
    fn luthier_store_get(store: Ptr, key: *const c_char, out: Out) -> Message;
    fn luthier_store_add(store: Ptr, key: *const c_char, amount: i64, out: *mut i64) -> Message;
    fn luthier_store_free(store: *mut c_void) -> Message;
    fn luthier_group_gloo(
        store: Ptr,
        rank: i32,
        size: i32,
        timeout_ms: i64,
        host: *const c_char,
        out: Out,
    ) -> Message;
    fn luthier_group_nccl(
        store: Ptr,
        rank: i32,
        size: i32,
        timeout_ms: i64,
        device: i32,
        library: *const c_char,
        out: Out,
    ) -> Message;
    fn luthier_group_clone(group: Ptr, out: Out) -> Message;
    fn luthier_group_free(group: *mut c_void) -> Message;
    fn luthier_all_reduce(group: Ptr, tensor: Ptr, op: i32) -> Message;
    fn luthier_all_reduce_start(group: Ptr, tensor: Ptr, op: i32, out: Out) -> Message;
    fn luthier_work_wait(work: *mut c_void) -> Message;
    fn luthier_work_free(work: *mut c_void) -> Message;
    fn luthier_broadcast(group: Ptr, tensor: Ptr, root: i64) -> Message;
    fn luthier_all_gather(group: Ptr, own: Ptr, out: Out) -> Message;
    fn luthier_reduce_scatter(group: Ptr, all: Ptr, out: Out) -> Message;
    fn luthier_barrier(group: Ptr) -> Message;
    fn luthier_send(group: Ptr, tensor: Ptr, to: i64, tag: i64) -> Message;
    fn luthier_send_start(group: Ptr, tensor: Ptr, to: i64, tag: i64, out: Out) -> Message;
    fn luthier_recv(group: Ptr, tensor: Ptr, from: i64, tag: i64) -> Message;
    fn luthier_all_reduce_rows(
        group: Ptr,
        indices: Ptr,
        values: Ptr,
        rows: i64,
        op: i32,
        out: Out,
    ) -> Message;
    fn luthier_along(group: Ptr, x: Ptr, which: i32, out: Out) -> Message;
    fn luthier_send_forward(group: Ptr, x: Ptr, to: i64, tag: i64, out: Out) -> Message;
    fn luthier_recv_forward(
        group: Ptr,
        shape: *const i64,
        dims: usize,
        kind: i32,
        from: i64,
        tag: i64,
        out: Out,
    ) -> Message;
    fn luthier_reducer_new(
        group: Ptr,
        params: List,
        n: usize,
        sparse: *const bool,
        options: *const ReducerOptions,
        out: Out,
    ) -> Message;
    fn luthier_reducer_free(reducer: *mut c_void) -> Message;
    fn luthier_reducer_prepare_for_forward(reducer: *mut c_void) -> Message;
    fn luthier_reducer_prepare_for_backward(reducer: *mut c_void, loss: Ptr) -> Message;
    fn luthier_reducer_check_finalized(reducer: *mut c_void) -> Message;
    fn luthier_reducer_buckets(reducer: *mut c_void, out: *mut i64) -> Message;
}

/// An object of C++ that is ours, and the function that frees it.
#[derive(Debug)]
struct Owned {
    at: NonNull<c_void>,
    free: unsafe extern "C" fn(*mut c_void) -> Message,
}

// SAFETY: what lies behind counts its references atomically and is bound to no thread. It is not
// `Sync`: one thread at a time.
unsafe impl Send for Owned {}

impl Owned {
    fn new(
        free: unsafe extern "C" fn(*mut c_void) -> Message,
        make: impl FnOnce(Out) -> Message,
    ) -> Result<Self> {
        let mut out = ptr::null_mut();
        check(make(&mut out))?;
        let at = NonNull::new(out).expect("C++ said that it made an object");
        Ok(Self { at, free })
    }

    fn ptr(&self) -> Ptr {
        self.at.as_ptr()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Nobody is left who could use the object: an error in closing it changes nothing.
        // SAFETY: made by the C++ that `free` belongs to, and freed here alone.
        let _ = check(unsafe { (self.free)(self.at.as_ptr()) });
    }
}

fn millis(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX / 1_000_000)
}

pub(super) fn has_gloo() -> bool {
    // SAFETY (here and below): pointers come from live borrows, and C++ keeps none of them; what it
    // keeps of tensors and groups it counts.
    unsafe { luthier_has_gloo() }
}

#[derive(Debug)]
pub(super) struct Store(Owned);

impl Store {
    /// `listener` is bound to `port`; C++ closes it.
    pub fn tcp(host: &str, port: u16, listener: Option<OwnedFd>, timeout: Duration) -> Result<Self> {
        let host = CString::new(host)?;
        let listener = listener.map_or(-1, IntoRawFd::into_raw_fd);
        Owned::new(luthier_store_free, |out| unsafe {
            luthier_store_tcp(host.as_ptr(), port, listener, millis(timeout), out)
        })
        .map(Self)
    }

    pub fn file(path: &[u8], size: i32, timeout: Duration) -> Result<Self> {
        let path = CString::new(path)?;
        Owned::new(luthier_store_free, |out| unsafe {
            luthier_store_file(path.as_ptr(), size, millis(timeout), out)
        })
        .map(Self)
    }

    pub fn prefix(&self, prefix: &str) -> Result<Self> {
        let prefix = CString::new(prefix)?;
        Owned::new(luthier_store_free, |out| unsafe {
            luthier_store_prefix(self.0.ptr(), prefix.as_ptr(), out)
        })
        .map(Self)
    }

    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = CString::new(key)?;
        check(unsafe { luthier_store_set(self.0.ptr(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    pub fn get(&self, key: &str) -> Result<Tensor> {
        let key = CString::new(key)?;
        tensor_from(|out| unsafe { luthier_store_get(self.0.ptr(), key.as_ptr(), out) })
    }

    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let key = CString::new(key)?;
        let mut sum = 0;
        check(unsafe { luthier_store_add(self.0.ptr(), key.as_ptr(), amount, &mut sum) })?;
        Ok(sum)
    }
}

#[derive(Debug)]
pub(super) struct Group(Owned);

impl Group {
    pub fn gloo(store: &Store, rank: i32, size: i32, timeout: Duration, host: &str) -> Result<Self> {
        let host = CString::new(host)?;
        Owned::new(luthier_group_free, |out| unsafe {
            luthier_group_gloo(store.0.ptr(), rank, size, millis(timeout), host.as_ptr(), out)
        })
        .map(Self)
    }

    pub fn nccl(
        store: &Store,
        (rank, size): (i32, i32),
        timeout: Duration,
        device: i32,
        library: &Path,
    ) -> Result<Self> {
        let library = CString::new(library.as_os_str().as_bytes())?;
        Owned::new(luthier_group_free, |out| unsafe {
            luthier_group_nccl(store.0.ptr(), rank, size, millis(timeout), device, library.as_ptr(), out)
        })
        .map(Self)
    }

    pub fn again(&self) -> Result<Self> {
        Owned::new(luthier_group_free, |out| unsafe { luthier_group_clone(self.0.ptr(), out) }).map(Self)
    }

    pub fn all_reduce(&self, tensor: &Tensor, op: Reduce) -> Result<()> {
        check(unsafe { luthier_all_reduce(self.0.ptr(), ptr_of(tensor), op as i32) })
    }

    pub fn all_reduce_start(&self, tensor: &Tensor, op: Reduce) -> Result<Work> {
        Owned::new(luthier_work_free, |out| unsafe {
            luthier_all_reduce_start(self.0.ptr(), ptr_of(tensor), op as i32, out)
        })
        .map(Work)
    }

    pub fn broadcast(&self, tensor: &Tensor, root: i64) -> Result<()> {
        check(unsafe { luthier_broadcast(self.0.ptr(), ptr_of(tensor), root) })
    }

    pub fn all_gather(&self, own: &Tensor) -> Result<Tensor> {
        tensor_from(|out| unsafe { luthier_all_gather(self.0.ptr(), ptr_of(own), out) })
    }

    pub fn reduce_scatter(&self, all: &Tensor) -> Result<Tensor> {
        tensor_from(|out| unsafe { luthier_reduce_scatter(self.0.ptr(), ptr_of(all), out) })
    }

    pub fn barrier(&self) -> Result<()> {
        check(unsafe { luthier_barrier(self.0.ptr()) })
    }

    pub fn send(&self, tensor: &Tensor, to: i64, tag: i64) -> Result<()> {
        check(unsafe { luthier_send(self.0.ptr(), ptr_of(tensor), to, tag) })
    }

    pub fn send_start(&self, tensor: &Tensor, to: i64, tag: i64) -> Result<Work> {
        Owned::new(luthier_work_free, |out| unsafe {
            luthier_send_start(self.0.ptr(), ptr_of(tensor), to, tag, out)
        })
        .map(Work)
    }

    pub fn recv(&self, tensor: &Tensor, from: i64, tag: i64) -> Result<()> {
        check(unsafe { luthier_recv(self.0.ptr(), ptr_of(tensor), from, tag) })
    }

    pub fn all_reduce_rows(
        &self,
        indices: &Tensor,
        values: &Tensor,
        rows: i64,
        op: Reduce,
    ) -> Result<Tensor> {
        tensor_from(|out| unsafe {
            luthier_all_reduce_rows(self.0.ptr(), ptr_of(indices), ptr_of(values), rows, op as i32, out)
        })
    }

    pub fn along(&self, x: &Tensor, which: Along) -> Result<Tensor> {
        tensor_from(|out| unsafe { luthier_along(self.0.ptr(), ptr_of(x), which as i32, out) })
    }

    pub fn send_forward(&self, x: &Tensor, to: i64, tag: i64) -> Result<Tensor> {
        tensor_from(|out| unsafe { luthier_send_forward(self.0.ptr(), ptr_of(x), to, tag, out) })
    }

    pub fn recv_forward(&self, shape: &[i64], kind: Kind, from: i64, tag: i64) -> Result<Tensor> {
        let kind = kind as i32;
        tensor_from(|out| unsafe {
            luthier_recv_forward(self.0.ptr(), shape.as_ptr(), shape.len(), kind, from, tag, out)
        })
    }
}

#[derive(Debug)]
pub(super) struct Work(Owned);

impl Work {
    pub fn wait(self) -> Result<()> {
        check(unsafe { luthier_work_wait(self.0.at.as_ptr()) })
    }
}

#[derive(Debug)]
pub(super) struct Reducer(Owned);

impl Reducer {
    /// `sparse` is as long as `params`, or empty.
    pub fn new<T: Borrow<Tensor>>(
        group: &Group,
        params: &[T],
        sparse: &[bool],
        options: &super::ReducerOptions,
    ) -> Result<Self> {
        let params = list(params);
        let sparse = if sparse.len() == params.len() { sparse.as_ptr() } else { ptr::null() };
        let options = ReducerOptions {
            first_bucket_bytes: i64::try_from(options.first_bucket_bytes).unwrap_or(i64::MAX),
            bucket_bytes: i64::try_from(options.bucket_bytes).unwrap_or(i64::MAX),
            find_unused: options.find_unused,
            static_graph: options.static_graph,
            bucket_view: options.gradient_as_bucket_view,
        };
        Owned::new(luthier_reducer_free, |out| unsafe {
            luthier_reducer_new(group.0.ptr(), params.as_ptr(), params.len(), sparse, &options, out)
        })
        .map(Self)
    }

    pub fn prepare_for_forward(&mut self) -> Result<()> {
        check(unsafe { luthier_reducer_prepare_for_forward(self.0.at.as_ptr()) })
    }

    pub fn prepare_for_backward(&mut self, loss: &Tensor) -> Result<()> {
        check(unsafe { luthier_reducer_prepare_for_backward(self.0.at.as_ptr(), ptr_of(loss)) })
    }

    pub fn check_finalized(&mut self) -> Result<()> {
        check(unsafe { luthier_reducer_check_finalized(self.0.at.as_ptr()) })
    }

    pub fn buckets(&mut self) -> Result<i64> {
        let mut buckets = 0;
        check(unsafe { luthier_reducer_buckets(self.0.at.as_ptr(), &mut buckets) })?;
        Ok(buckets)
    }
}
