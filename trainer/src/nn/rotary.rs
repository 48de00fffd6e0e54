//! Rotary positions: the angles that a `config.json` asks for, in transformers 5's words (`rope_parameters`) and in those
//! before (`rope_theta`, `rope_scaling`), as transformers' `modeling_rope_utils.py` computes them.

use std::cell::RefCell;
use std::f64::consts::PI;

use anyhow::{Result, bail, ensure};
use native::Angles;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{Context, Packing};

/// How frequencies are stretched for contexts longer than those of the pre-training.
#[derive(Clone, Debug, PartialEq)]
enum Stretch {
    /// Not at all.
    None,
    /// All by this factor (S. Chen et al., 2023).
    Linear(f64),
    /// By the length of the sequence, where that is beyond the positions.
    Dynamic(f64),
    /// Long waves by a factor, short ones not, between them some (Llama 3.1).
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    /// The same by the number of turns (B. Peng et al., "YaRN", 2023).
    Yarn { factor: f64, slow: f64, fast: f64, original: f64, truncate: bool },
    /// Each by a factor of its own, of which there are two sets (Y. Ding et al., "LongRoPE", 2024).
    Long { short: Vec<f64>, long: Vec<f64>, original: i64 },
}

/// The positions of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    base: f64,
    /// Numbers of a head that are turned.
    turned: i64,
    /// Tokens that there are positions for.
    positions: i64,
    stretch: Stretch,
    /// What cosines and sines are multiplied by.
    factor: f64,
}

impl Rope {
    /// Reads the fields of `config`, or of `own`, which takes their place where layers differ. A head has `width` numbers;
    /// `base` is the family's where none is given.
    ///
    /// # Errors
    /// A kind of stretching that is not known, or lacks a number.
    pub fn read(config: &Value, own: Option<&Value>, width: i64, base: f64) -> Result<Self> {
        let none = Value::Null;
        let given = |name: &str| config.get(name).filter(|value| !value.is_null());
        let fields =
            own.or_else(|| given("rope_parameters")).or_else(|| given("rope_scaling")).unwrap_or(&none);
        let number = |name: &str| {
            let own = fields.get(name).and_then(Value::as_f64);
            own.or_else(|| given(name).and_then(Value::as_f64))
        };
        let need = |name: &str| {
            number(name).ok_or_else(|| anyhow::anyhow!("config.json: rope_parameters lack `{name}`"))
        };
        let list = |name: &str| -> Result<Vec<f64>> {
            let values = fields.get(name).and_then(Value::as_array);
            let values = values.map(|values| values.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
            values.ok_or_else(|| anyhow::anyhow!("config.json: rope_parameters lack the list `{name}`"))
        };
        let positions = number("max_position_embeddings").unwrap_or(2048.0);
        let original = given("original_max_position_embeddings").and_then(Value::as_f64);
        let original = original.or_else(|| number("original_max_position_embeddings")).unwrap_or(positions);
        let share = number("partial_rotary_factor").or_else(|| number("rotary_pct")).unwrap_or(1.0);
        let turned = (width as f64 * share) as i64;
        ensure!(turned >= 2 && turned % 2 == 0, "config.json: {turned} numbers of a head cannot be turned");
        let name = fields.get("rope_type").or_else(|| fields.get("type")).and_then(Value::as_str);
        let phi3 = given("model_type").and_then(Value::as_str) == Some("phi3");
        let name = match name.unwrap_or("default") {
            // Names of old for the same thing.
            "su" | "yarn" if phi3 => "longrope",
            name => name,
        };
        let stated = number("attention_factor");
        let (stretch, factor) = match name {
            "default" => (Stretch::None, 1.0),
            "linear" => (Stretch::Linear(need("factor")?), 1.0),
            "dynamic" => (Stretch::Dynamic(need("factor")?), 1.0),
            "llama3" => {
                let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
                (Stretch::Llama3 { factor: need("factor")?, low, high, original }, 1.0)
            }
            "yarn" => {
                let factor = number("factor").unwrap_or(positions / original);
                let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
                let known = |name| number(name).filter(|value| *value != 0.0);
                let by = match (known("mscale"), known("mscale_all_dim")) {
                    (Some(one), Some(all)) => scale(one) / scale(all),
                    _ => scale(1.0),
                };
                let (fast, slow) = (known("beta_fast").unwrap_or(32.0), known("beta_slow").unwrap_or(1.0));
                let truncate = fields.get("truncate").and_then(Value::as_bool).unwrap_or(true);
                (Stretch::Yarn { factor, slow, fast, original, truncate }, stated.unwrap_or(by))
            }
            "longrope" => {
                let factor = number("factor").unwrap_or(positions / original);
                let by = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                let (short, long) = (list("short_factor")?, list("long_factor")?);
                ensure!(
                    [&short, &long].iter().all(|list| list.len() as i64 == turned / 2),
                    "config.json: short_factor and long_factor must have {} numbers, they have {} and {}",
                    turned / 2,
                    short.len(),
                    long.len()
                );
                (Stretch::Long { short, long, original: original as i64 }, stated.unwrap_or(by))
            }
            other => bail!("config.json: the rope_type `{other}` is not supported"),
        };
        let base = number("rope_theta").or_else(|| number("rotary_emb_base")).unwrap_or(base);
        Ok(Rope { base, turned, positions: positions as i64, stretch, factor })
    }

    /// Whether angles depend on the length of the sequence.
    fn goes_by_length(&self) -> bool {
        matches!(self.stretch, Stretch::Dynamic(_) | Stretch::Long { .. })
    }

    /// Angle of one position further, fp32 `[turned / 2]`, in a sequence of this length. Steps and kinds are those of the
    /// reference, so that the last bits are.
    fn frequencies(&self, length: i64) -> Tensor {
        let turned = self.turned as f64;
        let part = Tensor::arange_start_step(0, self.turned, 2, (Kind::Int64, Device::Cpu))
            .to_kind(Kind::Float)
            / turned;
        let powers = |base: f64| Tensor::pow_scalar(base, &part);
        let plain = || powers(self.base).reciprocal();
        match &self.stretch {
            Stretch::None => plain(),
            Stretch::Linear(factor) => plain() / *factor,
            Stretch::Dynamic(factor) => {
                let length = length.max(self.positions) as f64;
                let grown = factor * length / self.positions as f64 - (factor - 1.0);
                powers(self.base * grown.powf(turned / (turned - 2.0))).reciprocal()
            }
            Stretch::Llama3 { factor, low, high, original } => {
                let plain = plain();
                let waves = plain.reciprocal() * (2.0 * PI);
                let (longest, shortest) = (original / low, original / high);
                let stretched = (&plain / *factor).where_self(&waves.gt(longest), &plain);
                let smooth = (waves.reciprocal() * *original - *low) / (high - low);
                let rest: Tensor = smooth.neg() + 1.0;
                let between: Tensor = rest * &stretched / *factor + &smooth * &stretched;
                let is_between = waves.lt(shortest).logical_or(&waves.gt(longest)).logical_not();
                between.where_self(&is_between, &stretched)
            }
            Stretch::Yarn { factor, slow, fast, original, truncate } => {
                let place =
                    |turns: f64| turned * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln());
                let (first, last) = match truncate {
                    true => (place(*fast).floor(), place(*slow).ceil()),
                    false => (place(*fast), place(*slow)),
                };
                let (first, last) = (first.max(0.0), last.min(turned - 1.0));
                let last = if first == last { last + 0.001 } else { last };
                let ramp =
                    (Tensor::arange(self.turned / 2, (Kind::Float, Device::Cpu)) - first) / (last - first);
                let kept = 1.0 - ramp.clamp(0.0, 1.0);
                let plain = powers(self.base);
                (&plain * *factor).reciprocal() * (1.0 - &kept) + plain.reciprocal() * kept
            }
            Stretch::Long { short, long, original } => {
                let factors = if length > *original { long } else { short };
                let factors: Vec<f32> = factors.iter().map(|&factor| factor as f32).collect();
                (Tensor::from_slice(&factors) * powers(self.base)).reciprocal()
            }
        }
    }

    /// Cosines and sines of the positions `0 .. count` in a sequence of this length.
    fn table(&self, count: i64, length: i64) -> (Tensor, Tensor) {
        let positions = Tensor::arange(count, (Kind::Float, Device::Cpu)).unsqueeze(1);
        let frequencies = self.frequencies(length).unsqueeze(0);
        let block = |from: i64| {
            let angles = positions.narrow(0, from, BLOCK.min(count - from)) * &frequencies;
            (angles.cos() * self.factor, angles.sin() * self.factor)
        };
        let (cos, sin): (Vec<Tensor>, Vec<Tensor>) = (0..count).step_by(BLOCK as usize).map(block).unzip();
        (Tensor::cat(&cos, 0), Tensor::cat(&sin, 0))
    }
}

/// Positions whose angles are computed at once, by one thread: where libtorch parts a larger table among threads decides over last
/// bits, and a table that has grown for one sequence is used for the others.
const BLOCK: i64 = 128;

/// Turns queries and keys by their positions.
pub struct Rotary {
    rope: Rope,
    device: Device,
    /// The angles of positions from 0 on, as many as were asked for; none where they go by length.
    known: RefCell<Option<(Tensor, Tensor)>>,
}

impl Rotary {
    /// Angles on a device.
    pub fn new(rope: Rope, device: Device) -> Self {
        Rotary { rope, device, known: RefCell::new(None) }
    }

    /// Turns the first `heads` heads of `width` numbers: `[n, any]` → the same.
    pub fn turn(&self, x: &Tensor, heads: i64, width: i64, context: &Context) -> Tensor {
        let packing = context.packing;
        if self.rope.goes_by_length() {
            let (cos, sin) = self.by_sequence(packing);
            let places = Tensor::arange(packing.tokens(), (Kind::Int64, self.device));
            return native::rotary(x, Angles { cos: &cos, sin: &sin }, &places, heads, width);
        }
        let longest = packing.longest();
        let mut known = self.known.borrow_mut();
        if known.as_ref().is_none_or(|(cos, _)| cos.size()[0] < longest) {
            let count = (longest + 255) / 256 * 256;
            let (cos, sin) = self.rope.table(count, count);
            *known = Some((cos.to_device(self.device), sin.to_device(self.device)));
        }
        let (cos, sin) = known.as_ref().expect("a table was made");
        native::rotary(x, Angles { cos, sin }, &packing.positions, heads, width)
    }

    /// The angles of each token, `[n, turned / 2]`: each sequence has those of its own length.
    fn by_sequence(&self, packing: &Packing) -> (Tensor, Tensor) {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (&past, &length) in packing.past.iter().zip(&packing.lengths) {
            let all = past + length;
            let (own_cos, own_sin) = self.rope.table(all, all);
            cos.push(own_cos.narrow(0, past, length));
            sin.push(own_sin.narrow(0, past, length));
        }
        let spare = packing.tokens() - packing.lengths.iter().sum::<i64>();
        let (rest_cos, rest_sin) = self.rope.table(1, 1);
        cos.push(rest_cos.expand([spare, -1], false));
        sin.push(rest_sin.expand([spare, -1], false));
        let join = |parts: &[Tensor]| Tensor::cat(parts, 0).contiguous().to_device(self.device);
        (join(&cos), join(&sin))
    }
}
