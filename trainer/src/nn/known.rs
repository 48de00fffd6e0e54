//! What a checkpoint has beside the parameters that a model asks for by one name.

use tch::{Kind, Tensor};

use super::load::Path;

impl<'a> Path<'a> {
    /// Whether the checkpoint has a tensor of this name.
    pub fn is_known(&self, name: &str) -> bool {
        self.loader.names.contains_key(&self.join(name))
    }

    /// Of places further down the first where the checkpoint has a tensor of this name, or the first; tensors of this name at the
    /// others are the same.
    pub fn first_known(&self, name: &str, places: &[&str]) -> Path<'a> {
        let known = places.iter().map(|place| self.sub(place)).find(|place| place.is_known(name));
        let chosen = known.unwrap_or_else(|| self.sub(places[0]));
        for place in places.iter().map(|place| self.sub(place)).filter(|place| place.name != chosen.name) {
            place.leave_out(name);
        }
        chosen
    }

    /// Notes that the model has no use for a tensor of this name, and that this is no fault.
    pub fn leave_out(&self, name: &str) {
        self.loader.state.borrow_mut().taken.insert(self.join(name));
    }

    /// Numbers that are part of the model and never trained, fp32; `None` where the checkpoint has none.
    pub fn constant(&self, name: &str, shape: &[i64]) -> Option<Tensor> {
        let full = self.join(name);
        if self.loader.part.survey || !self.is_known(name) {
            return None;
        }
        let value = self.read(&full, shape)?.to_device(self.device()).to_kind(Kind::Float);
        self.loader.state.borrow_mut().constants.push((full, value.shallow_clone()));
        Some(value)
    }

    /// Whether the checkpoint has both of these tensors, and they are not the same.
    pub fn differ(&self, name: &str, other: &Path, of_other: &str) -> bool {
        let read = |full: &str| self.loader.tensor(self.loader.names.get(full)?).ok();
        match (read(&self.join(name)), read(&other.join(of_other))) {
            (Some(own), Some(theirs)) => own.size() != theirs.size() || !own.equal(&theirs),
            _ => false,
        }
    }
}
