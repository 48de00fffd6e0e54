//! What an adapter may be.

use super::Check;
use crate::spec::{Adapter, Freeze, JobSpec, Targets};

impl JobSpec {
    pub(super) fn check_adapter(&self, check: &mut Check) {
        let Some(adapter) = &self.training.lora else { return };
        adapter.check(check);
        check.that(self.training.freeze == Freeze::default(), "training.freeze", || {
            "an adapter leaves all weights but the head's as they are; leave freeze out, and choose lora.targets"
                .to_owned()
        });
        for (param, number) in [
            ("resources.tensor_parallel", self.resources.tensor_parallel),
            ("resources.pipeline_stages", self.resources.pipeline_stages),
        ] {
            check.that(number <= 1, param, || {
                format!(
                    "an adapter is trained beside whole layers, found {number}; leave it at 1, and take devices for copies \
                     of the model"
                )
            });
        }
    }
}

impl Adapter {
    fn check(&self, check: &mut Check) {
        let at = |name: &str| format!("training.lora.{name}");
        check.range(&at("rank"), self.rank, 1..=1024, "1 to 1024");
        check.above(&at("alpha"), self.alpha, 0.0, 100_000.0);
        check.range(&at("dropout"), self.dropout, 0.0..1.0, "0 to below 1");
        if let Targets::Named(names) = &self.targets {
            let some = !names.is_empty() && names.iter().all(|name| !name.trim().is_empty());
            check.that(some, &at("targets"), || {
                "names no layer; give names such as [\"query\", \"value\"], or \"all-linear\"".to_owned()
            });
        }
    }
}
