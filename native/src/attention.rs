//! Scaled dot-product attention with dropout that can be drawn again.

use tch::{TchError, Tensor};

use crate::{Result, f_dropout};

/// `dropout(softmax(q · kᵀ / √d + mask)) · v`.
///
/// - `q`: `[b, h, tq, d]`; `k`, `v`: `[b, h, tk, d]`; one floating kind;
/// - `mask`: added to the scores, `[b, 1, 1, tk]`, `[b, 1, tq, tk]` or anything that broadcasts to
///   `[b, h, tq, tk]`; cast to the kind of `q`. A row that is masked with -inf throughout gives NaN
///   for `p > 0`: mask with the kind's lowest finite number;
/// - `p`: dropout probability on the attention weights, 0 when not training;
/// - `keys`: Int64 `[b]` from [`crate::keys`]; needed only where `p > 0`.
///
/// Returns `[b, h, tq, d]`. With `p == 0` this is libtorch's `scaled_dot_product_attention`, which
/// does not hold the weights; otherwise they are held twice for backward (before and after dropout),
/// `b · h · tq · tk` elements each.
///
/// Source: A. Vaswani et al., "Attention is all you need", 2017, equation 1.
///
/// # Errors
/// When shapes or kinds do not fit, or keys are missing.
pub fn f_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    p: f64,
    keys: Option<&Tensor>,
) -> Result<Tensor> {
    let mask = mask.map(|m| m.f_to_kind(q.f_kind()?)).transpose()?;
    if p == 0.0 {
        return Tensor::f_scaled_dot_product_attention(q, k, v, mask.as_ref(), 0.0, false, None, false);
    }
    let Some(keys) = keys else {
        return Err(TchError::Torch(format!("attention: dropout of {p} without keys")));
    };
    let Some(&width) = q.size().last().filter(|&&d| d > 0) else {
        return Err(TchError::Shape(format!("attention: q is {:?}", q.size())));
    };
    // Scaling q rather than the scores touches tq · d numbers, not tq · tk.
    let scale = 1.0 / (width as f64).sqrt();
    let scores = q.f_mul_scalar(scale)?.f_matmul(&k.f_transpose(-2, -1)?)?;
    let scores = match &mask {
        Some(mask) => scores.f_add(mask)?,
        None => scores,
    };
    let weights = scores.f_softmax(-1, None)?;
    f_dropout(&weights, p, keys)?.f_matmul(v)
}

/// [`f_attention`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_attention`] gives an error.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    p: f64,
    keys: Option<&Tensor>,
) -> Tensor {
    f_attention(q, k, v, mask, p, keys).unwrap()
}
