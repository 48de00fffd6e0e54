//! Files of tensors of which each process has a part: written as one process would, read by each for its part.
//!
//! The first process writes. For each tensor it asks those of its copy of the model that have a part of it, so that no
//! more than one whole tensor is in memory.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use formats::checkpoint::Weights;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::grid::{Grid, Place};
use super::ranks::Ranks;
use crate::nn::Cuts;
use crate::tensors::{self, Head, Named};

/// Asks no more.
const DONE: i64 = -1;

/// Which part of which parameter this process has.
pub struct Parts {
    grid: Grid,
    place: Place,
    cuts: Cuts,
    absent: BTreeSet<String>,
    /// Whether each copy of the model has the state of some parameters.
    sharded: bool,
    /// Files so far: all processes count alike.
    files: Cell<u64>,
}

/// What a process says of a tensor that it has.
#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<i64>,
    cut: Option<i64>,
}

/// A part: who has it, the how-manieth it is there, and its shape.
struct Held {
    rank: usize,
    at: i64,
    shape: Vec<i64>,
}

impl Parts {
    /// Of parameters, `cuts` are cut along a dimension, and `absent` are elsewhere.
    pub fn new(ranks: &Ranks, cuts: Cuts, absent: &Named, sharded: bool) -> Self {
        let absent = absent.iter().map(|(name, _)| name.clone()).collect();
        Parts { grid: ranks.grid(), place: ranks.place(), cuts, absent, sharded, files: Cell::new(0) }
    }

    /// Whether this process counts for a parameter where something is summed over all: those that have it whole are
    /// several, and one of them counts.
    pub fn counts(&self, name: &str) -> bool {
        self.place.share == 0 || self.cuts.contains_key(name)
    }

    /// Whether all processes that share a layer have this parameter whole.
    pub fn is_whole(&self, name: &str) -> bool {
        !self.cuts.contains_key(name)
    }

    /// Along which dimension a tensor is cut: a parameter, or what an optimizer remembers of it in its shape.
    fn cut(&self, name: &str, dims: usize) -> Option<i64> {
        let of_state = || name.rsplit_once('.').and_then(|(param, _)| self.cuts.get(param));
        self.cuts.get(name).or_else(of_state).copied().filter(|_| dims > 0)
    }

    /// The processes that the model's parameters are asked of: those of the first copy.
    pub fn of_model(&self) -> usize {
        self.grid.model()
    }

    /// Those that the optimizer's state is asked of.
    pub fn of_state(&self) -> usize {
        if self.sharded { self.grid.size() } else { self.grid.model() }
    }

    /// Writes `own` and the others' parts as one file, as long as they [`Parts::serve`]. The first process calls this.
    pub fn save(&self, ranks: &Ranks, path: &Path, own: &Named, holders: usize) -> Result<()> {
        let file = self.files.replace(self.files.get() + 1);
        if holders == 1 {
            return tensors::save(path, own);
        }
        let mut held: BTreeMap<String, (Entry, Vec<Held>)> = BTreeMap::new();
        for rank in 0..holders {
            let entries = match rank {
                0 => self.entries(own)?,
                _ => serde_json::from_slice(&ranks.store()?.get(&key(file, rank))?)?,
            };
            for (at, entry) in (0..).zip(entries) {
                let part = Held { rank, at, shape: entry.shape.clone() };
                held.entry(entry.name.clone()).or_insert_with(|| (entry, Vec::new())).1.push(part);
            }
        }
        let held: Vec<(Entry, Vec<Held>)> = held.into_values().collect();
        let heads = held.iter().map(|(entry, parts)| whole(entry, parts)).collect::<Result<Vec<_>>>()?;
        let part = |kind: Kind, part: &Held| -> Result<Tensor> {
            if part.rank == 0 {
                return Ok(own[part.at as usize].1.detach());
            }
            let asked =
                ranks.send(&Tensor::from_slice(&[part.at]).to_device(ranks.device()), part.rank, 0)?;
            let found = Tensor::empty(&part.shape, (kind, ranks.device()));
            ranks.receive(&found, part.rank, 0)?;
            asked.wait()?;
            Ok(found)
        };
        tensors::save_each(path, &heads, |at| {
            let (entry, parts) = &held[at];
            let kind = heads[at].kind;
            match entry.cut {
                None => part(kind, &parts[0]),
                Some(dim) => {
                    let parts = parts.iter().map(|held| part(kind, held)).collect::<Result<Vec<_>>>()?;
                    Ok(Tensor::f_cat(&parts, dim)?)
                }
            }
        })?;
        for rank in 1..holders {
            ranks.send(&Tensor::from_slice(&[DONE]).to_device(ranks.device()), rank, 0)?.wait()?;
        }
        Ok(())
    }

    /// Gives the first process what it asks for. All others call this where that one calls [`Parts::save`].
    pub fn serve(&self, ranks: &Ranks, own: &Named, holders: usize) -> Result<()> {
        let file = self.files.replace(self.files.get() + 1);
        if ranks.rank() >= holders {
            return Ok(());
        }
        ranks.store()?.set(&key(file, ranks.rank()), &serde_json::to_vec(&self.entries(own)?)?)?;
        loop {
            let asked = Tensor::from_slice(&[DONE]).to_device(ranks.device());
            ranks.receive(&asked, 0, 0)?;
            let Ok(at) = usize::try_from(asked.int64_value(&[0])) else { return Ok(()) };
            let (_, tensor) = own.get(at).context("asked for a tensor that there is not")?;
            ranks.send(&tensor.detach().to_device(ranks.device()), 0, 0)?.wait()?;
        }
    }

    fn entries(&self, own: &Named) -> Result<Vec<Entry>> {
        let entry = |(name, tensor): &(String, Tensor)| {
            Ok(Entry {
                name: name.clone(),
                dtype: tensors::dtype_of(tensor.kind())?,
                shape: tensor.size(),
                cut: self.cut(name, tensor.dim()),
            })
        };
        own.iter().map(entry).collect()
    }

    /// This process's part of each tensor of a file, in order; those that are elsewhere are left out.
    pub fn load(&self, folder: &Path, file: &str, elsewhere: impl Fn(&str) -> bool) -> Result<Named> {
        let saved = Weights::of_file(folder, file)?;
        let here = |name: &&str| {
            let param = name.rsplit_once('.').map_or(*name, |(param, _)| param);
            !self.absent.contains(*name) && !self.absent.contains(param) && !elsewhere(param)
        };
        let own = |name: &str| {
            let tensor = tensors::of_checkpoint(&saved.tensor(name)?)?;
            let Some(dim) = self.cut(name, tensor.dim()) else { return Ok((name.to_string(), tensor)) };
            let size = tensor.size()[dim as usize] / self.grid.shares as i64;
            let part = tensor.f_narrow(dim, self.place.share as i64 * size, size)?;
            Ok((name.to_string(), part.contiguous()))
        };
        saved.names().filter(here).map(own).collect()
    }
}

fn key(file: u64, rank: usize) -> String {
    format!("file/{file}/{rank}")
}

/// What the file is to say of a tensor in parts.
fn whole(entry: &Entry, parts: &[Held]) -> Result<Head> {
    let mut shape = entry.shape.clone();
    if let Some(dim) = entry.cut {
        shape[dim as usize] = parts.iter().map(|part| part.shape[dim as usize]).sum();
    }
    Ok(Head { name: entry.name.clone(), kind: tensors::kind_of(entry.dtype)?, shape })
}
