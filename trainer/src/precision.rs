//! In which numbers a job computes: what was asked for, against what the device can do.

use anyhow::Result;
use store::spec::Precision;
use tch::{Device, Kind};

use crate::failure::Failure;
use crate::nn::Numbers;

/// The precision of a job, settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// Never `auto`.
    pub precision: Precision,
    /// Why, in a sentence for the log.
    pub reason: String,
}

impl Settled {
    /// How parameters are kept and multiplied.
    pub fn numbers(&self) -> Numbers {
        match self.precision {
            Precision::Bf16 => Numbers::Mixed(Kind::BFloat16),
            Precision::Fp16 => Numbers::Mixed(Kind::Half),
            Precision::Bf16Pure => Numbers::Pure(Kind::BFloat16),
            Precision::Auto | Precision::Fp32 | Precision::Tf32 => Numbers::Full,
        }
    }

    /// The kind of what layers hand to each other in training.
    pub fn kind(&self) -> Kind {
        match self.numbers() {
            Numbers::Full => Kind::Float,
            Numbers::Mixed(kind) | Numbers::Pure(kind) => kind,
        }
    }

    /// The name as the specification has it.
    pub fn name(&self) -> &'static str {
        self.precision.name()
    }
}

/// Settles `auto`, and refuses what the device has no arithmetic for.
///
/// `auto` is bf16 with fp32 weights where the processor multiplies bf16 (AVX-512 BF16, AMX, ARM's BF16) or the GPU does
/// (compute capability 8), fp16 with a scaler on older GPUs, fp32 elsewhere.
///
/// # Errors
/// A [`Failure`] of the user for tf32 or fp16 on a CPU.
pub fn settle(asked: Precision, device: Device) -> Result<Settled> {
    let settled = |precision, reason: &str| Ok(Settled { precision, reason: reason.into() });
    let cpu = device == Device::Cpu;
    match asked {
        Precision::Auto if cpu && native::runtime::multiplies_bf16() => {
            settled(Precision::Bf16, "this processor multiplies bf16 about twice as fast as fp32")
        }
        Precision::Auto if cpu => {
            settled(Precision::Fp32, "this processor has no instructions for numbers of 16 bits")
        }
        Precision::Auto if native::cuda::compute_capability().is_some_and(|(major, _)| major >= 8) => {
            settled(Precision::Bf16, "this GPU multiplies bf16")
        }
        Precision::Auto => settled(Precision::Fp16, "this GPU multiplies fp16, but not bf16"),
        Precision::Tf32 | Precision::Fp16 if cpu => Err(Failure::user(
            "invalid_precision",
            format!(
                "{} is for GPUs, and this job runs on a CPU. Ask for bf16 or fp32, or leave precision at auto.",
                asked.name()
            ),
        )
        .at("precision")
        .into()),
        Precision::Bf16Pure if !cpu => Err(Failure::user(
            "invalid_precision",
            "bf16_pure rounds by a kernel that only CPUs have so far. Ask for bf16, or leave precision at auto.",
        )
        .at("precision")
        .into()),
        Precision::Bf16 | Precision::Bf16Pure if cpu && !native::runtime::multiplies_bf16() => {
            settled(asked, "asked for; this processor has no instructions for bf16, so it is slower than fp32")
        }
        _ => settled(asked, "asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_refuses_what_it_cannot_compute() {
        for asked in [Precision::Tf32, Precision::Fp16] {
            let error = settle(asked, Device::Cpu).unwrap_err();
            let failure = Failure::of(&error);
            assert_eq!(
                (failure.code.as_str(), failure.param.as_deref()),
                ("invalid_precision", Some("precision"))
            );
        }
        assert_eq!(settle(Precision::Fp32, Device::Cpu).unwrap().kind(), Kind::Float);
    }

    #[test]
    fn auto_goes_by_the_processor() {
        let settled = settle(Precision::Auto, Device::Cpu).unwrap();
        let expected = if native::runtime::multiplies_bf16() { Kind::BFloat16 } else { Kind::Float };
        assert_eq!(settled.kind(), expected);
        assert_ne!(settled.precision, Precision::Auto);
    }
}
