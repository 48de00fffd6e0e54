//! Finds each parameter of a model in a checkpoint, strictly, and reports what was dropped or made anew.
//!
//! `tch::nn::VarStore` is not used: it changes dtypes on loading, renames repeated names and ignores what it does not
//! know. Here a model asks for a parameter by the name that transformers gives it, and everything that does not fit
//! is collected, so that a wrong checkpoint is explained at once and as a whole.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use formats::checkpoint::Weights;
use tch::{Device, Kind, Tensor};

use super::adapters::{Adapters, Found, Wanted};
use super::copies::Copies;
use super::names::{inner_name, is_buffer, is_head, listed, misshaped};
use super::part::{Cuts, Part, stand_in};
use super::shared::Shared;
use crate::failure::Failure;
use crate::tensors;

/// How a parameter that is not in the checkpoint begins.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Even between minus and plus this.
    Uniform(f64),
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

/// What became of the checkpoint's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that were made anew, by the model's names.
    pub made: Vec<String>,
    /// Tensors of the checkpoint that the model has no use for, by the file's names.
    pub dropped: Vec<String>,
}

/// How parameters are kept, and what layers multiply by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// fp32 throughout.
    Full,
    /// fp32 parameters, and a copy of the layers' in this kind to multiply by.
    Mixed(Kind),
    /// Matrices are kept in this kind; vectors (biases, norms) and heads in fp32.
    Pure(Kind),
}

/// What a model was made of.
pub struct Loaded {
    /// The parameters by name, in the order they were asked for.
    pub params: tensors::Named,
    /// Numbers of the model that are never trained, by name.
    pub constants: tensors::Named,
    /// Stand-ins of those that other processes have.
    pub absent: tensors::Named,
    /// Those of which this process has a share.
    pub cuts: Cuts,
    /// Copies of them in another kind.
    pub copies: Copies,
    /// The adapters, where only these and the head are trained.
    pub adapters: Option<Adapters>,
    /// Tables whose gradient comes by row.
    pub by_row: BTreeSet<String>,
    /// What was dropped or made anew.
    pub report: LoadReport,
}

/// A checkpoint, and the parameters taken from it so far.
pub struct Loader<'a> {
    pub(super) weights: &'a Weights,
    /// Model name → file name.
    pub(super) names: BTreeMap<String, String>,
    base: &'static str,
    /// For each label, its row in the checkpoint's own head; `None` for a new head.
    label_rows: Option<Vec<i64>>,
    seed: u64,
    device: Device,
    numbers: Numbers,
    from_scratch: bool,
    sites: Cell<u64>,
    attentions: Cell<usize>,
    pub(super) wanted: Option<Wanted>,
    pub(super) shared: Option<&'a Shared>,
    pub(super) part: Part,
    pub(super) state: RefCell<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub params: tensors::Named,
    pub constants: tensors::Named,
    pub absent: tensors::Named,
    pub cuts: Cuts,
    pub found: Found,
    /// What cannot be cut into equal shares.
    pub misfits: Vec<String>,
    copies: Vec<(Tensor, Tensor)>,
    pub by_row: BTreeSet<String>,
    pub taken: BTreeSet<String>,
    pub made: Vec<String>,
    pub missing: Vec<String>,
    pub misshaped: Vec<String>,
}

impl<'a> Loader<'a> {
    /// Prepares to load a model whose encoder lives below `base` (`bert`, `roberta`, …).
    ///
    /// A checkpoint of the bare encoder has no such prefix; old ones say `gamma` and `beta` in their norms.
    pub fn new(weights: &'a Weights, base: &'static str, seed: u64, device: Device) -> Self {
        let prefix = if base.is_empty() { String::new() } else { format!("{base}.") };
        let bare = !weights.names().any(|name| name.starts_with(&prefix));
        let names = weights
            .names()
            .map(|name| {
                let modern = name.replace("LayerNorm.gamma", "LayerNorm.weight");
                let modern = modern.replace("LayerNorm.beta", "LayerNorm.bias");
                let full = if bare { format!("{prefix}{modern}") } else { modern };
                (full, name.to_string())
            })
            .collect();
        Loader {
            weights,
            names,
            base,
            label_rows: None,
            seed,
            device,
            numbers: Numbers::Full,
            from_scratch: false,
            sites: Cell::new(0),
            attentions: Cell::new(0),
            wanted: None,
            shared: None,
            part: Part::whole(),
            state: RefCell::default(),
        }
    }

    /// Keeps the checkpoint's head: label `i` takes row `rows[i]`.
    pub fn keep_head(mut self, rows: Vec<i64>) -> Self {
        self.label_rows = Some(rows);
        self
    }

    /// Makes anew what the checkpoint does not hold, encoder included.
    pub fn from_scratch(mut self) -> Self {
        self.from_scratch = true;
        self
    }

    /// Keeps parameters in these numbers.
    pub fn numbers(mut self, numbers: Numbers) -> Self {
        self.numbers = numbers;
        self
    }

    /// The root of the parameter names.
    pub fn root(&self) -> Path<'_> {
        let may_be_new = self.from_scratch;
        Path { loader: self, name: String::new(), may_be_new, full: false, biased: true, by_column: false }
    }

    /// The parameters by name in the order they were asked for; an error lists all that does not fit.
    pub fn finish(self) -> Result<Loaded> {
        let state = self.state.into_inner();
        let (mut dropped, mut surplus) = (Vec::new(), Vec::new());
        for (full, name) in &self.names {
            if state.taken.contains(full) {
                continue;
            }
            match inner_name(full, self.base) {
                Some(inner) if is_buffer(inner) => {}
                Some(inner) if !is_head(inner) => surplus.push(name.clone()),
                _ => dropped.push(name.clone()),
            }
        }
        let mut faults = state.misshaped;
        if !state.missing.is_empty() {
            faults.push(format!("not in the checkpoint: {}", listed(&state.missing)));
        }
        if !surplus.is_empty() {
            faults.push(format!(
                "in the checkpoint, but not in a model of this config.json: {}",
                listed(&surplus)
            ));
        }
        if !faults.is_empty() {
            return Err(Failure::user(
                "checkpoint_mismatch",
                format!("The weights do not fit config.json: {}.", faults.join("; ")),
            )
            .into());
        }
        let copies = Copies::new(state.copies);
        copies.refresh()?;
        let report = LoadReport { made: state.made, dropped };
        let adapters = self.wanted.map(|wanted| state.found.finish(wanted)).transpose()?;
        let State { params, constants, absent, cuts, by_row, .. } = state;
        Ok(Loaded { params, constants, absent, cuts, copies, adapters, by_row, report })
    }
}

/// A place in the tree of parameter names.
#[derive(Clone)]
pub struct Path<'a> {
    pub(super) loader: &'a Loader<'a>,
    pub(super) name: String,
    pub(super) may_be_new: bool,
    full: bool,
    biased: bool,
    pub(super) by_column: bool,
}

impl<'a> Path<'a> {
    /// One or more segments further down.
    pub fn sub(&self, segment: impl Display) -> Path<'a> {
        Path { name: self.join(segment), ..self.clone() }
    }

    /// The same place, where parameters that are not in the checkpoint are made anew.
    pub fn may_be_new(&self) -> Path<'a> {
        Path { may_be_new: true, ..self.clone() }
    }

    /// The same place, where layers compute in full precision: heads, whose work is small and whose numbers are the answer.
    pub fn in_full(&self) -> Path<'a> {
        Path { full: true, ..self.clone() }
    }

    /// Where the model lives.
    pub fn device(&self) -> Device {
        self.loader.device
    }

    /// The same place, where linear layers have a bias or none.
    pub fn biased(&self, biased: bool) -> Path<'a> {
        Path { biased, ..self.clone() }
    }

    /// The same place, where the file holds the matrices of linear layers as `[in, out]`.
    pub(super) fn by_column(&self) -> Path<'a> {
        Path { by_column: true, ..self.clone() }
    }

    /// Whether linear layers have a bias here.
    pub(super) fn is_biased(&self) -> bool {
        self.biased
    }

    /// A parameter of the model. What is wrong with it is reported by [`Loader::finish`].
    pub fn param(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let full = self.join(name);
        if !self.loader.part.has(&full) {
            let known = self.loader.looks_like(&full, shape);
            return self.leave(full, shape, self.kind(shape), known);
        }
        if let Some(known) = self.known(&full) {
            return self.registered(full, known);
        }
        let value = self.read(&full, shape);
        self.register(full, value, shape, init, None)
    }

    /// A parameter of the model whose memory is `place`, a part of [`Path::room`]. Where it is cut along a dimension,
    /// `place` is this process's share.
    pub fn param_at(&self, name: &str, place: Tensor, init: Init, cut: Option<i64>) -> Tensor {
        let (full, mut shape) = (self.join(name), place.size());
        if let Some(dim) = cut.filter(|_| self.loader.part.shares > 1) {
            shape[dim as usize] *= self.loader.part.shares;
            self.loader.state.borrow_mut().cuts.insert(full.clone(), dim);
        }
        if !self.loader.part.has(&full) {
            let known = self.loader.looks_like(&full, &shape);
            return self.leave(full, &place.size(), place.kind(), known);
        }
        if let Some(known) = self.known(&full) {
            return self.registered(full, known);
        }
        let value = self.read(&full, &shape);
        self.register(full, value, &shape, init, Some((place, cut)))
    }

    /// Memory for parameters of this name that lie beside each other.
    pub fn room(&self, name: &str, shape: &[i64]) -> Tensor {
        let full = self.join(name);
        let make = || Tensor::empty(shape, (self.kind(shape), self.loader.device));
        match self.loader.part.has(&full) {
            true => self.known_room(&full, make),
            false => stand_in(shape, self.kind(shape)),
        }
    }

    /// The kind in which a parameter of this shape is kept.
    fn kind(&self, shape: &[i64]) -> Kind {
        match self.loader.numbers {
            Numbers::Pure(kind) if shape.len() > 1 && !self.full => kind,
            _ => Kind::Float,
        }
    }

    /// `params` in the kind of mixed precision: a copy that [`Copies::refresh`] keeps in step, or themselves where they
    /// are kept so; `None` in full precision.
    pub fn low(&self, name: &str, params: &Tensor) -> Option<Tensor> {
        if !self.loader.part.has(&self.join(name)) {
            return None;
        }
        let kind = match self.loader.numbers {
            Numbers::Mixed(kind) | Numbers::Pure(kind) if !self.full => kind,
            _ => return None,
        };
        if params.kind() == kind {
            return Some(params.shallow_clone());
        }
        let copy = Tensor::empty(params.size(), (kind, params.device()));
        self.loader.state.borrow_mut().copies.push((params.shallow_clone(), copy.shallow_clone()));
        Some(copy)
    }

    pub(super) fn read(&self, full: &str, shape: &[i64]) -> Option<Tensor> {
        let file_name = self.loader.names.get(full)?;
        self.loader.read(full, file_name, shape)
    }

    /// A parameter of a head with one row a label.
    pub fn label_param(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let full = self.join(name);
        if !self.loader.part.has(&full) {
            let known = self.loader.label_rows.is_some() && self.loader.names.contains_key(&full);
            return self.may_be_new().leave(full, shape, self.kind(shape), known);
        }
        let value = self.loader.label_rows.as_ref().and_then(|rows| {
            let file_name = self.loader.names.get(&full)?;
            let all = self.loader.tensor(file_name).ok()?;
            self.loader.state.borrow_mut().taken.insert(full.clone());
            Some(all.index_select(0, &Tensor::from_slice(rows)))
        });
        self.may_be_new().register(full, value, shape, init, None)
    }

    /// Notes that the gradient of the parameter of this name comes by row.
    pub(super) fn comes_by_row(&self, name: &str) {
        self.loader.state.borrow_mut().by_row.insert(self.join(name));
    }

    /// A number for each place where something is drawn, by the order in which the model is built.
    pub fn next_site(&self) -> u64 {
        let site = self.loader.sites.get();
        self.loader.sites.set(site + 1);
        site
    }

    /// A number for each attention, by the order in which the model is built.
    pub(super) fn next_attention(&self) -> usize {
        let number = self.loader.attentions.get();
        self.loader.attentions.set(number + 1);
        number
    }

    pub(super) fn join(&self, segment: impl Display) -> String {
        if self.name.is_empty() { segment.to_string() } else { format!("{}.{segment}", self.name) }
    }

    /// A parameter's numbers, which are not kept as such.
    pub(super) fn unregistered(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let full = self.join(name);
        let value = self.read(&full, shape).unwrap_or_else(|| self.made(&full, shape, init));
        value.to_device(self.loader.device)
    }

    /// A new parameter's numbers, drawn as a function of seed and name.
    pub(super) fn drawn(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        self.loader.make(&self.join(name), shape, init)
    }

    /// A parameter that no checkpoint of a plain model has: fp32, trained.
    pub(super) fn adapter_param(&self, name: &str, value: Tensor) -> Tensor {
        let param = value.to_device(self.loader.device).detach().set_requires_grad(true);
        self.loader.state.borrow_mut().params.push((self.join(name), param.shallow_clone()));
        param
    }

    /// What stands for a parameter that the checkpoint has not, or not in this shape.
    fn made(&self, full: &str, shape: &[i64], init: Init) -> Tensor {
        let mut state = self.loader.state.borrow_mut();
        if self.may_be_new {
            state.made.push(full.to_string());
        } else if !state.taken.contains(full) {
            state.missing.push(full.to_string());
        }
        drop(state);
        self.loader.make(full, shape, init)
    }

    fn register(
        &self,
        full: String,
        value: Option<Tensor>,
        shape: &[i64],
        init: Init,
        place: Option<(Tensor, Option<i64>)>,
    ) -> Tensor {
        let value = value.unwrap_or_else(|| self.made(&full, shape, init));
        let param = match place {
            Some((mut place, cut)) => {
                place.copy_(
                    &cut.map_or_else(|| value.shallow_clone(), |dim| self.loader.part.cut(&value, dim)),
                );
                place.detach()
            }
            None => value.to_device(self.loader.device).to_kind(self.kind(shape)),
        };
        self.leave_shared(&full, &param);
        self.registered(full, param.set_requires_grad(self.is_trained()))
    }

    fn registered(&self, full: String, param: Tensor) -> Tensor {
        self.loader.state.borrow_mut().params.push((full, param.shallow_clone()));
        param
    }
}

impl Loader<'_> {
    pub(super) fn tensor(&self, file_name: &str) -> Result<Tensor> {
        tensors::of_checkpoint(&self.weights.tensor(file_name)?)
    }

    /// The file's tensor, or `None` with the trouble noted where its shape is another.
    fn read(&self, full: &str, file_name: &str, shape: &[i64]) -> Option<Tensor> {
        let mut state = self.state.borrow_mut();
        state.taken.insert(full.to_string());
        let found = match self.tensor(file_name) {
            Ok(tensor) => tensor,
            Err(error) => {
                state.misshaped.push(format!("{file_name}: {error:#}"));
                return None;
            }
        };
        if found.size() == shape {
            return Some(found);
        }
        state.misshaped.push(misshaped(file_name, &found.size(), shape));
        None
    }

    /// A new parameter, drawn as a function of seed and name.
    fn make(&self, full: &str, shape: &[i64], init: Init) -> Tensor {
        let options = (Kind::Float, Device::Cpu);
        let draw = |draw: &dyn Fn() -> Tensor| {
            // FNV-1a of the name: the order in which parameters are made does not matter.
            let name = full.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            // libtorch has one generator for the whole process.
            static GENERATOR: Mutex<()> = Mutex::new(());
            let _alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
            tch::manual_seed(native::key(self.seed, 0, name, 0));
            draw()
        };
        match init {
            Init::Zeros => Tensor::zeros(shape, options),
            Init::Ones => Tensor::ones(shape, options),
            Init::Normal(std) => draw(&|| Tensor::randn(shape, options) * std),
            Init::Uniform(bound) => draw(&|| Tensor::rand(shape, options) * (2.0 * bound) - bound),
        }
    }
}
