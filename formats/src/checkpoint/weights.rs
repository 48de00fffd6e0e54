//! The tensors of a checkpoint, by name, over all of its shards.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;

use super::folder::{self, Set};
use super::safetensors::{Header, TensorInfo};
use crate::problem::{Problem, ProblemKind};

/// One tensor, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<u64>,
    /// Its elements, row-major, little-endian.
    pub bytes: Vec<u8>,
}

/// The weights that transformers would load from a folder, open for reading.
///
/// Tensors are read when asked for, one at a time, at their place in the file. The files are not mapped into memory: a
/// mapped file that another process cuts short ends the reader by a signal, where a read gives an error.
#[derive(Debug)]
pub struct Weights {
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

#[derive(Debug)]
struct WeightFile {
    name: String,
    bytes: u64,
    file: File,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`, and checks their headers.
    ///
    /// # Errors
    /// A shard or tensor that the index lists and the folder lacks, no weights at all, or whatever [`Header::read`] finds.
    pub fn open(dir: &Path) -> Result<Self, Problem> {
        match folder::weights_of(dir)? {
            Set::Single => Self::of_files(dir, &[folder::SINGLE.to_owned()]),
            Set::Sharded => Self::sharded(dir),
        }
    }

    /// Opens the file `name` alone.
    ///
    /// # Errors
    /// Whatever [`Header::read`] finds.
    pub fn of_file(dir: &Path, name: &str) -> Result<Self, Problem> {
        Self::of_files(dir, &[name.to_owned()])
    }

    fn sharded(dir: &Path) -> Result<Self, Problem> {
        let index: Index = folder::read_json(dir, folder::INDEX, ProblemKind::MissingWeights)?;
        let mut shards: Vec<String> = index.weight_map.values().cloned().collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in &shards {
            check_shard(dir, shard)?;
        }
        let weights = Self::of_files(dir, &shards)?;
        for (tensor, shard) in &index.weight_map {
            let place = weights.tensors.get(tensor).map(|(file, _)| &weights.files[*file].name);
            if place != Some(shard) {
                let message = format!("the tensor `{tensor}` is listed for `{shard}` and is not in it");
                return Err(Problem::new(ProblemKind::MissingWeights, folder::INDEX, message)
                    .hint("upload the index that belongs to these shards"));
            }
        }
        Ok(weights)
    }

    fn of_files(dir: &Path, names: &[String]) -> Result<Self, Problem> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for name in names {
            let path: PathBuf = dir.join(name);
            let header = Header::read(&path, name)?;
            let file = File::open(&path).map_err(|error| Problem::from_io(error, name))?;
            for (tensor, info) in header.tensors {
                if let Some((other, _)) = weights.tensors.get(&tensor) {
                    let message =
                        format!("the tensor `{tensor}` is also in `{}`", weights.files[*other].name);
                    return Err(Problem::new(ProblemKind::CorruptWeights, name, message)
                        .hint("remove the shard that does not belong to this checkpoint"));
                }
                weights.tensors.insert(tensor, (weights.files.len(), info));
            }
            weights.files.push(WeightFile { name: name.clone(), bytes: header.file_bytes, file });
        }
        Ok(weights)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// How many tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Type, shape and place of a tensor; `None` where there is none of that name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(_, info)| info)
    }

    /// The files the tensors are read from, with their sizes in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|file| (file.name.as_str(), file.bytes))
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// [`ProblemKind::Tensor`] where there is none of that name, [`ProblemKind::Unreadable`] where the file cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Problem> {
        let (_, info) = self.find(name)?;
        let mut bytes = vec![0; info.bytes() as usize];
        self.read_into(name, &mut bytes)?;
        Ok(Tensor { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    /// Reads a tensor's bytes into `buffer`, which must have their number.
    ///
    /// # Errors
    /// As [`Weights::tensor`]; also [`ProblemKind::Tensor`] where the buffer has another size.
    pub fn read_into(&self, name: &str, buffer: &mut [u8]) -> Result<(), Problem> {
        let (file, info) = self.find(name)?;
        if buffer.len() as u64 != info.bytes() {
            let message =
                format!("the tensor `{name}` has {} bytes, room was made for {}", info.bytes(), buffer.len());
            return Err(Problem::new(ProblemKind::Tensor, &file.name, message));
        }
        file.file.read_exact_at(buffer, info.start).map_err(|error| {
            let message = format!("the tensor `{name}` cannot be read: {error}");
            Problem::new(ProblemKind::Unreadable, &file.name, message)
        })
    }

    /// Reads the bytes of a tensor from the one with number `from` on, as many as `buffer` has room for.
    ///
    /// # Errors
    /// As [`Weights::tensor`]; also [`ProblemKind::Tensor`] where it has not as many.
    pub fn read_part(&self, name: &str, from: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let (file, info) = self.find(name)?;
        let end = from.checked_add(buffer.len() as u64).filter(|end| *end <= info.bytes());
        if end.is_none() {
            let message = format!("the tensor `{name}` has {} bytes, more were asked for", info.bytes());
            return Err(Problem::new(ProblemKind::Tensor, &file.name, message));
        }
        file.file.read_exact_at(buffer, info.start + from).map_err(|error| {
            let message = format!("the tensor `{name}` cannot be read: {error}");
            Problem::new(ProblemKind::Unreadable, &file.name, message)
        })
    }

    fn find(&self, name: &str) -> Result<(&WeightFile, &TensorInfo), Problem> {
        match self.tensors.get(name) {
            Some((file, info)) => Ok((&self.files[*file], info)),
            None => {
                let message = format!("there is no tensor `{name}`");
                Err(Problem::new(
                    ProblemKind::Tensor,
                    self.files.first().map_or("", |file| &file.name),
                    message,
                ))
            }
        }
    }
}

/// A shard's name is a name in the folder, and the file is there.
fn check_shard(dir: &Path, shard: &str) -> Result<(), Problem> {
    if shard.is_empty() || shard.contains(['/', '\\', '\0']) || shard == "." || shard == ".." {
        let message = format!("the shard name `{shard}` is not a file name");
        return Err(Problem::new(ProblemKind::CorruptWeights, folder::INDEX, message)
            .hint("shards lie beside the index"));
    }
    if dir.join(shard).is_file() {
        return Ok(());
    }
    let message = format!("the shard `{shard}` is listed in the index and absent");
    Err(Problem::new(ProblemKind::MissingWeights, folder::INDEX, message)
        .hint("upload the missing shard too"))
}
