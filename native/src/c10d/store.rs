use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tch::TchError;

use super::ffi;
use crate::Result;

/// Keys and values that all ranks see; where they find each other.
///
/// There is no authentication: who reaches a TCP store's port can read and write it. Bind it to an address that only
/// the ranks reach, such as `127.0.0.1` on one machine.
#[derive(Debug)]
pub struct Store {
    pub(super) inner: ffi::Store,
    port: Option<u16>,
}

impl Store {
    /// A store that this process serves on `host`, an address of this machine, for as long as the store lives.
    ///
    /// - `port`: 0 takes a free one, see [`Store::port`];
    /// - `timeout`: how long [`Store::get`] and the joining of a group wait for the others.
    ///
    /// # Errors
    /// When the port is taken or `host` is no address of this machine.
    pub fn tcp_master(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        // c10d would listen on every address of the machine.
        let listener = TcpListener::bind((host, port))?;
        let port = listener.local_addr()?.port();
        let inner = ffi::Store::tcp(host, port, Some(listener.into()), timeout)?;
        Ok(Self { inner, port: Some(port) })
    }

    /// The store that another process serves on `host` and `port`.
    ///
    /// # Errors
    /// When it was not reached within `timeout`.
    pub fn tcp_client(host: &str, port: u16, timeout: Duration) -> Result<Self> {
        Ok(Self { inner: ffi::Store::tcp(host, port, None, timeout)?, port: Some(port) })
    }

    /// A store in a file that all ranks can open: for ranks on one machine, and for tests.
    ///
    /// `path` must not exist before the first rank; the last of the `ranks` that lets go of it removes it.
    ///
    /// # Errors
    /// When `path` holds a zero byte. A path that cannot be opened shows at first use, after `timeout`.
    pub fn file(path: &Path, ranks: usize, timeout: Duration) -> Result<Self> {
        let inner = ffi::Store::file(path.as_os_str().as_bytes(), number(ranks, "ranks")?, timeout)?;
        Ok(Self { inner, port: None })
    }

    /// The same store, with `prefix/` before every key: each group over one store needs a prefix of its own.
    ///
    /// # Errors
    /// When `prefix` holds a zero byte.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self> {
        Ok(Self { inner: self.inner.prefix(prefix)?, port: self.port })
    }

    /// The port of a TCP store.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the store is not reached any more.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.inner.set(key, value)
    }

    /// The value of a key; waits until a rank has set it.
    ///
    /// # Errors
    /// When none has within the store's timeout, or the store is not reached any more.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        Vec::try_from(self.inner.get(key)?)
    }

    /// Adds to a counter that begins at 0, and returns its value after that.
    ///
    /// # Errors
    /// When the store is not reached any more.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        self.inner.add(key, amount)
    }
}

/// A number as C++ takes it.
pub(super) fn number(value: usize, what: &str) -> Result<i32> {
    i32::try_from(value).map_err(|_| TchError::Torch(format!("{what} is {value}")))
}
