//! Between tensors and the bytes of safetensors files.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Error, Result, bail, ensure};
use formats::checkpoint;
use native::memory::Mapped;
use safetensors::Dtype;
use safetensors::tensor::View;
use tch::{Device, Kind, Tensor};

/// Tensors by name, in a fixed order.
pub type Named = Vec<(String, Tensor)>;

/// A tensor of a checkpoint, on the CPU.
pub fn of_checkpoint(read: &checkpoint::Tensor) -> Result<Tensor> {
    let shape: Vec<i64> = read.shape.iter().map(|&size| i64::try_from(size)).collect::<Result<_, _>>()?;
    Ok(Tensor::f_from_data_size(&read.bytes, &shape, kind_of(read.dtype)?)?)
}

/// All numbers of a tensor, row by row.
pub fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view(-1))?)
}

/// The kind of a type in a file.
pub fn kind_of(dtype: Dtype) -> Result<Kind> {
    Ok(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        other => bail!("tensors of type {other:?} are not supported"),
    })
}

/// The type in a file of a kind.
pub fn dtype_of(kind: Kind) -> Result<Dtype> {
    Ok(match kind {
        Kind::Double => Dtype::F64,
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        other => bail!("tensors of type {other:?} are not saved"),
    })
}

/// What a file says of a tensor.
pub struct Head {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its shape.
    pub shape: Vec<i64>,
}

/// A tensor on its way into a file.
struct Saved<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    at: usize,
    fetch: &'a dyn Fn(usize) -> Result<Tensor>,
    failed: &'a RefCell<Option<Error>>,
}

impl Saved<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let tensor = (self.fetch)(self.at)?.detach().to_device(Device::Cpu).contiguous();
        let mut data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut data, tensor.numel())?;
        ensure!(data.len() == self.data_len(), "a tensor is not of the size that was said");
        Ok(data)
    }
}

impl View for &Saved<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.bytes().unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            vec![0; Saved::data_len(self)]
        }))
    }
    fn data_len(&self) -> usize {
        Saved::data_len(self)
    }
}

impl Saved<'_> {
    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes tensors as a safetensors file with transformers' metadata (`format: pt`), and flushes it to the disk.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let head = |(name, tensor): &(String, Tensor)| Head {
        name: name.clone(),
        kind: tensor.kind(),
        shape: tensor.size(),
    };
    let heads: Vec<Head> = tensors.iter().map(head).collect();
    save_each(path, &heads, |at| Ok(tensors[at].1.shallow_clone()))
}

/// [`save`] of tensors that are fetched one at a time, by their place in `heads`.
pub fn save_each(path: &Path, heads: &[Head], fetch: impl Fn(usize) -> Result<Tensor>) -> Result<()> {
    let failed = RefCell::new(None);
    let saved = heads.iter().enumerate().map(|(at, head)| {
        let shape = head.shape.iter().map(|&size| usize::try_from(size)).collect::<Result<_, _>>()?;
        Ok(Saved { dtype: dtype_of(head.kind)?, shape, at, fetch: &fetch, failed: &failed })
    });
    let saved = saved.collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    let named = heads.iter().map(|head| head.name.as_str()).zip(&saved);
    safetensors::serialize_to_file(named, Some(metadata), path)
        .with_context(|| format!("writing {}", path.display()))?;
    drop(saved);
    if let Some(error) = failed.into_inner() {
        return Err(error.context(format!("writing {}", path.display())));
    }
    std::fs::File::open(path)?.sync_all()?;
    Ok(())
}

/// Reads all tensors of a file of our own.
pub fn load(path: &Path) -> Result<Named> {
    let bytes = Mapped::open(path).with_context(|| format!("reading {}", path.display()))?;
    let file = safetensors::SafeTensors::deserialize(&bytes)
        .with_context(|| format!("reading {}", path.display()))?;
    file.iter()
        .map(|(name, view)| {
            let shape: Vec<i64> =
                view.shape().iter().map(|&size| i64::try_from(size)).collect::<Result<_, _>>()?;
            Ok((name.to_string(), Tensor::f_from_data_size(view.data(), &shape, kind_of(view.dtype())?)?))
        })
        .collect()
}
