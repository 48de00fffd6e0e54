//! The part of a model that a process holds, where several processes hold it together.
//!
//! - Tensor parallel: the processes of a group share each layer. [`super::Linear`] keeps some of the rows or columns of
//!   its weights, attention some of the heads; all else each of them has whole.
//! - Pipeline: a process has some of the layers. The others are built too, since places of dropout are numbered as they
//!   are built, but their parameters are one number that only looks like a tensor of their shape.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use native::Heads;
use native::c10d::Group;
use tch::{Kind, Tensor};

use super::load::{Loader, Path};
use super::names::{listed, misshaped};

/// Which parameters a process has, and how much of each.
#[derive(Default)]
pub struct Part {
    /// The processes that share each layer; `None` for this one alone.
    pub group: Option<Group>,
    /// How many they are (without a group: are to be).
    pub shares: i64,
    /// Parameters that other processes have; `None` for none.
    pub absent: Option<BTreeSet<String>>,
    /// Reads nothing: only the names and shapes are wanted.
    pub survey: bool,
}

/// Parameters of which this process has a share, and the dimension along which they are cut.
pub type Cuts = BTreeMap<String, i64>;

impl Part {
    /// All of the model.
    pub fn whole() -> Self {
        Part { shares: 1, ..Part::default() }
    }

    /// Names and shapes alone, of a model whose layers `shares` processes would share.
    pub fn survey(shares: i64) -> Self {
        Part { shares, survey: true, ..Part::default() }
    }

    /// Which share of each layer this process has.
    fn number(&self) -> i64 {
        self.group.as_ref().map_or(0, |group| group.rank() as i64)
    }

    /// Whether the parameter of this name has its numbers here.
    pub(super) fn has(&self, name: &str) -> bool {
        !self.survey && self.absent.as_ref().is_none_or(|absent| !absent.contains(name))
    }

    /// This process's share of a whole tensor.
    pub(super) fn cut(&self, whole: &Tensor, dim: i64) -> Tensor {
        let size = whole.size()[dim as usize] / self.shares;
        whole.narrow(dim, self.number() * size, size)
    }
}

/// What stands for a parameter that is not here: one number, seen in the parameter's shape.
pub(super) fn stand_in(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::zeros([1], (kind, tch::Device::Cpu)).expand(shape, false)
}

impl Path<'_> {
    /// The heads that this process computes, neighbours in the whole's order.
    pub fn heads(&self, heads: Heads) -> Heads {
        let part = &self.loader.part;
        if heads.query % part.shares != 0 || heads.key % part.shares != 0 {
            let (query, key) = (heads.query, heads.key);
            self.loader.misfit(format!(
                "the model has {query} attention heads{}",
                if key == query { String::new() } else { format!(" and {key} of keys and values") }
            ));
            return heads;
        }
        heads.part(part.number(), part.shares)
    }

    /// Which share of a layer's inner width this process has, and of how many.
    pub(super) fn own_share(&self) -> (i64, i64) {
        (self.loader.part.number(), self.loader.part.shares)
    }

    /// Refuses shares of a layer, and says why.
    pub fn not_shared(&self, why: &str) {
        if self.loader.part.shares > 1 {
            self.loader.misfit(why.to_owned());
        }
    }

    /// A share of so many rows or columns.
    pub(super) fn share(&self, whole: i64) -> i64 {
        let shares = self.loader.part.shares;
        if whole % shares != 0 {
            self.loader.misfit(format!("`{}` is {whole} wide", self.name));
            return whole;
        }
        whole / shares
    }

    /// A parameter that another process has, or that is only asked for its shape.
    pub(super) fn leave(&self, full: String, shape: &[i64], kind: Kind, known: bool) -> Tensor {
        let stand_in = stand_in(shape, kind);
        let mut state = self.loader.state.borrow_mut();
        let entry = (full.clone(), stand_in.shallow_clone());
        if self.loader.part.survey {
            state.params.push(entry);
            return stand_in;
        }
        state.absent.push(entry);
        match known {
            true => _ = state.taken.insert(full),
            false if self.may_be_new => state.made.push(full),
            false => state.missing.push(full),
        }
        stand_in
    }

    /// The processes that share this layer, if there are any beside this one.
    pub(super) fn group(&self) -> Option<Group> {
        self.loader.part.group.as_ref().map(|group| group.again().expect("a handle of a group"))
    }
}

impl Loader<'_> {
    /// Keeps a part of the model.
    pub fn part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    /// What a survey found: the names of all parameters.
    ///
    /// # Errors
    /// A [`crate::failure::Failure`] of the user where something cannot be cut into so many.
    pub fn surveyed(self) -> Result<Vec<String>> {
        let shares = self.part.shares;
        let state = self.state.into_inner();
        if !state.misfits.is_empty() {
            let message = format!(
                "tensor_parallel is {shares}, and does not divide what is to be shared: {}.",
                listed(&state.misfits)
            );
            return Err(crate::failure::Failure::user("invalid_tensor_parallel", message)
                .at("resources.tensor_parallel")
                .into());
        }
        Ok(state.params.into_iter().map(|(name, _)| name).collect())
    }

    /// Whether the checkpoint has a parameter, which is not read here; one of another shape is noted.
    pub(super) fn looks_like(&self, full: &str, shape: &[i64]) -> bool {
        let Some(file_name) = self.names.get(full) else { return false };
        let found = self.weights.info(file_name).map_or_else(Vec::new, |info| {
            info.shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect()
        });
        if !self.part.survey && found != shape {
            self.state.borrow_mut().misshaped.push(misshaped(file_name, &found, shape));
        }
        true
    }

    fn misfit(&self, what: String) {
        let mut state = self.state.borrow_mut();
        if !state.misfits.contains(&what) {
            state.misfits.push(what);
        }
    }
}
