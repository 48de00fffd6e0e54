//! Weights that several models of one base have together.

use std::cell::RefCell;
use std::collections::HashMap;

use tch::Tensor;

use super::load::{Loader, Path};

/// The weights that the first model of a base has read, by name; the next ones take them instead of reading them again.
#[derive(Default)]
pub struct Shared {
    params: RefCell<HashMap<String, Tensor>>,
    /// Memory of several parameters, by the name of the first.
    rooms: RefCell<HashMap<String, Tensor>>,
}

impl Shared {
    /// How many numbers they are.
    pub fn numbers(&self) -> u64 {
        self.params.borrow().values().map(|param| param.numel() as u64).sum()
    }
}

impl<'a> Loader<'a> {
    /// Takes weights from `shared`, and leaves there what it reads first. Not what is trained beside an adapter.
    pub fn sharing(mut self, shared: &'a Shared) -> Self {
        self.shared = Some(shared);
        self
    }
}

impl Path<'_> {
    fn shared(&self) -> Option<&Shared> {
        let own = self.loader.wanted.is_some() && self.is_trained();
        self.loader.shared.filter(|_| !own)
    }

    /// A parameter that is there already; it counts as taken.
    pub(super) fn known(&self, full: &str) -> Option<Tensor> {
        // The same numbers, which are not trained here.
        let known = self.shared()?.params.borrow().get(full).map(Tensor::detach)?;
        self.loader.state.borrow_mut().taken.insert(full.to_owned());
        Some(known)
    }

    /// Leaves a parameter for the next model.
    pub(super) fn leave_shared(&self, full: &str, param: &Tensor) {
        if let Some(shared) = self.shared() {
            shared.params.borrow_mut().insert(full.to_owned(), param.shallow_clone());
        }
    }

    /// The memory of several parameters, which is made once.
    pub(super) fn known_room(&self, full: &str, make: impl FnOnce() -> Tensor) -> Tensor {
        let Some(shared) = self.shared() else { return make() };
        shared.rooms.borrow_mut().entry(full.to_owned()).or_insert_with(make).shallow_clone()
    }
}
