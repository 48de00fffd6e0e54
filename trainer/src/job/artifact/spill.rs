//! Logits on the disk between two replays, so that one model is in memory at a time.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::tensors::floats;

/// Logits on their way to the disk: fp32, row by row.
pub struct Spill {
    file: BufWriter<File>,
    path: PathBuf,
    width: usize,
}

/// The same on their way back.
pub struct Spilt {
    file: BufReader<File>,
    width: usize,
}

impl Spill {
    /// Makes the file, or empties it.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.with_context(|| format!("making {}", path.display()))?;
        Ok(Spill { file: BufWriter::new(file), path: path.to_owned(), width: 0 })
    }

    /// Adds logits `[m, width]`; all have the same width.
    pub fn put(&mut self, logits: &Tensor) -> Result<()> {
        let width = usize::try_from(logits.size()[1])?;
        ensure!(
            self.width == 0 || self.width == width,
            "logits of {width} numbers among those of {}",
            self.width
        );
        self.width = width;
        let failed = || format!("writing {}", self.path.display());
        for number in floats(logits)? {
            self.file.write_all(&number.to_le_bytes()).with_context(failed)?;
        }
        Ok(())
    }

    /// Begins to read from the first one.
    pub fn read(self) -> Result<Spilt> {
        let mut file = self.file.into_inner().context("writing the logits of the model")?;
        file.rewind()?;
        Ok(Spilt { file: BufReader::new(file), width: self.width })
    }
}

impl Spilt {
    /// The next `rows` ones: `[rows, width]`.
    pub fn take(&mut self, rows: i64) -> Result<Tensor> {
        let mut bytes = vec![0; usize::try_from(rows)? * self.width * 4];
        self.file.read_exact(&mut bytes).context("reading the logits of the model")?;
        Ok(Tensor::f_from_data_size(&bytes, &[rows, self.width as i64], Kind::Float)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_come_back_in_other_portions() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::create(&dir.path().join("logits")).unwrap();
        let all = Tensor::arange(12, (Kind::Float, tch::Device::Cpu)).view([4, 3]);
        spill.put(&all.narrow(0, 0, 3)).unwrap();
        spill.put(&all.narrow(0, 3, 1)).unwrap();
        assert!(spill.put(&Tensor::zeros([1, 2], (Kind::Float, tch::Device::Cpu))).is_err());
        let mut spilt = spill.read().unwrap();
        assert_eq!(spilt.take(1).unwrap(), all.narrow(0, 0, 1));
        assert_eq!(spilt.take(3).unwrap(), all.narrow(0, 1, 3));
        assert!(spilt.take(1).is_err());
    }
}
