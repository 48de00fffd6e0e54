//! The loss over a vocabulary.

use tch::Tensor;

use crate::{Result, ffi};

/// What is asked of [`cross_entropy`].
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// `[n, d]`: states whose next token is known.
    pub states: &'a Tensor,
    /// `[vocabulary, d]`, in the kind of the states: what is multiplied by.
    pub weight: &'a Tensor,
    /// The same numbers as they are trained; may be `weight` itself.
    pub param: &'a Tensor,
    /// Int64 `[n]`.
    pub targets: &'a Tensor,
    /// fp32 `[n]`: what each row's loss is multiplied by in the sum.
    pub weights: &'a Tensor,
    /// fp32 `[vocabulary]`, added to the logits of each row, without a gradient.
    pub bias: Option<&'a Tensor>,
    /// Logits become `cap · tanh(logit / cap)`; 0 for no bound.
    pub cap: f64,
}

/// What came of it.
#[derive(Debug)]
pub struct Losses {
    /// The sum of all losses, each times its weight: a scalar with gradients.
    pub total: Tensor,
    /// The loss of each row, fp32 `[n]`, without its weight and without gradients.
    pub each: Tensor,
    /// 1 where the target has the greatest logit, fp32 `[n]`.
    pub right: Tensor,
}

/// Logits that stand at once, at most, in bytes.
const CHUNK_BYTES: i64 = 32 << 20;

/// `Σ weights · cross_entropy(states · weightᵀ + bias, targets)`, fp32 inside.
///
/// Logits are made and forgotten in chunks of rows, and with them the gradients, of which `states` and `param` are given
/// those they need: of all logits no more than 32 MiB stand at once, and none is computed twice.
///
/// Source: for the loss `torch.nn.functional.cross_entropy`; for the gradients made on the way forward P. Hsu et al.,
/// "Liger Kernel", 2024, section 3.2.
///
/// # Errors
/// When shapes or kinds do not fit, or a target is no row of the weight.
pub fn f_cross_entropy(of: CrossEntropy) -> Result<Losses> {
    let chunk = (CHUNK_BYTES / (4 * of.weight.size()[0].max(1))).max(1);
    compute(of, chunk, false)
}

/// [`f_cross_entropy`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_cross_entropy`] gives an error.
pub fn cross_entropy(of: CrossEntropy) -> Losses {
    f_cross_entropy(of).unwrap()
}

fn compute(of: CrossEntropy, chunk: i64, by_ops: bool) -> Result<Losses> {
    let CrossEntropy { states: x, weight, param, targets, weights, bias, cap } = of;
    let it = ffi::CrossEntropy { x, weight, param, targets, weights, bias, cap, chunk, by_ops };
    let [total, each, right] = ffi::cross_entropy(&it)?;
    Ok(Losses { total, each, right })
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Reduction};

    use super::*;
    use crate::ffi::tests::{close, leaf};

    #[test]
    fn losses_and_gradients_are_those_of_libtorch() {
        tch::manual_seed(1);
        let (n, d, v) = (21, 12, 37);
        let (states, param) = (leaf(&[n, d], Kind::Float), leaf(&[v, d], Kind::Float));
        let targets = Tensor::randint(v, [n], (Kind::Int64, Device::Cpu));
        let weights = Tensor::rand([n], (Kind::Float, Device::Cpu));
        let beside = Tensor::randn([v], (Kind::Float, Device::Cpu));
        for (cap, bias) in [(0.0, None), (2.0, None), (0.0, Some(&beside))] {
            let logits = states.matmul(&param.transpose(0, 1));
            let logits = bias.map_or_else(|| logits.shallow_clone(), |bias| &logits + bias);
            let logits = if cap > 0.0 { (logits / cap).tanh() * cap } else { logits };
            let each = logits.cross_entropy_loss(&targets, None::<&Tensor>, Reduction::None, -100, 0.0);
            let total = (&each * &weights).sum(Kind::Float) * 3.0;
            let right = logits.argmax(1, false).eq_tensor(&targets).to_kind(Kind::Float);
            let mut expected = Tensor::run_backward(&[&total], &[&states, &param], false, false);
            expected.extend([total.detach(), each.detach(), right]);
            for (chunk, by_ops) in [(64, false), (4, false), (4, true)] {
                let weight = param.detach();
                let of = CrossEntropy {
                    states: &states,
                    weight: &weight,
                    param: &param,
                    targets: &targets,
                    weights: &weights,
                    bias,
                    cap,
                };
                let made = compute(of, chunk, by_ops).unwrap();
                let total = made.total * 3.0;
                let mut found = Tensor::run_backward(&[&total], &[&states, &param], false, false);
                found.extend([total.detach(), made.each, made.right]);
                close(&found, &expected, 2e-6);
            }
        }
    }

    #[test]
    fn a_target_outside_of_the_vocabulary_is_refused() {
        let of = |target: i64| {
            let states = leaf(&[1, 2], Kind::Float);
            let weight = leaf(&[3, 2], Kind::Float);
            let targets = Tensor::from_slice(&[target]);
            let weights = Tensor::from_slice(&[1.0_f32]);
            let (param, weight) = (&weight, &weight.detach());
            f_cross_entropy(CrossEntropy {
                states: &states,
                weight,
                param,
                targets: &targets,
                weights: &weights,
                bias: None,
                cap: 0.0,
            })
        };
        assert!(of(2).is_ok());
        for target in [-1, 3] {
            assert!(of(target).unwrap_err().to_string().contains("outside of the 3 tokens"));
        }
    }
}
