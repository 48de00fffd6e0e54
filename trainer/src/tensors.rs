//! Between tensors and the bytes of safetensors files.

use std::path::Path;

use anyhow::{Context, Result, bail};
use formats::checkpoint;
use native::memory::Mapped;
use safetensors::Dtype;
use safetensors::tensor::View;
use std::borrow::Cow;
use tch::{Device, Kind, Tensor};

/// Tensors by name, in a fixed order.
pub type Named = Vec<(String, Tensor)>;

/// A tensor of a checkpoint, on the CPU.
pub fn of_checkpoint(read: &checkpoint::Tensor) -> Result<Tensor> {
    let shape: Vec<i64> = read.shape.iter().map(|&size| i64::try_from(size)).collect::<Result<_, _>>()?;
    Ok(Tensor::f_from_data_size(&read.bytes, &shape, kind_of(read.dtype)?)?)
}

fn kind_of(dtype: Dtype) -> Result<Kind> {
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

fn dtype_of(kind: Kind) -> Result<Dtype> {
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

/// A tensor on its way into a file. Its bytes are copied when its turn comes, so that one tensor at a time is held twice.
struct Saved {
    dtype: Dtype,
    shape: Vec<usize>,
    tensor: Tensor,
}

impl Saved {
    fn new(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.detach();
        let shape = tensor.size().into_iter().map(usize::try_from).collect::<Result<_, _>>()?;
        Ok(Saved { dtype: dtype_of(tensor.kind())?, shape, tensor })
    }
}

impl View for &Saved {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.to_device(Device::Cpu).contiguous();
        let mut data = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut data, tensor.numel());
        Cow::Owned(data)
    }
    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// Writes tensors as a safetensors file with transformers' metadata (`format: pt`), and flushes it to the disk.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let saved = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), Saved::new(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    safetensors::serialize_to_file(saved.iter().map(|(name, tensor)| (*name, tensor)), Some(metadata), path)
        .with_context(|| format!("writing {}", path.display()))?;
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
