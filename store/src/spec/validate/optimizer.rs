//! What the settings of an update rule may be.

use super::Check;
use crate::spec::Optimizer;

const PATH: &str = "training.optimizer";

impl Optimizer {
    pub(super) fn check(&self, check: &mut Check) {
        let at = |name: &str| format!("{PATH}.{name}");
        match *self {
            Optimizer::Sgd { momentum, dampening, nesterov } => {
                share(check, "momentum", momentum);
                check.range(&at("dampening"), dampening, 0.0..=1.0, "0 to 1");
                let allowed = !nesterov || (momentum > 0.0 && dampening == 0.0);
                check.that(allowed, &at("nesterov"), || {
                    "needs a momentum above 0 and a dampening of 0".to_owned()
                });
            }
            Optimizer::Adam { betas, eps, .. }
            | Optimizer::Adamw { betas, eps, .. }
            | Optimizer::Adamw8bit { betas, eps } => adam(check, betas, eps),
            Optimizer::SparseAdam { betas, eps } => {
                pair(check, betas);
                check.that(eps > 0.0, &at("eps"), || format!("must be above 0, found {eps}"));
            }
            Optimizer::Rmsprop { alpha, eps, momentum, .. } => {
                share(check, "alpha", alpha);
                check.range(&at("eps"), eps, 0.0..f64::INFINITY, "0 or more");
                share(check, "momentum", momentum);
            }
            Optimizer::Lion { betas } => pair(check, betas),
            Optimizer::Adafactor { .. } => self.check_adafactor(check),
            Optimizer::Muon { momentum, ns_steps, adamw_lr_scale, betas, eps, .. } => {
                share(check, "momentum", momentum);
                check.range(&at("ns_steps"), ns_steps, 1..=99, "1 to 99");
                check.above(&at("adamw_lr_scale"), adamw_lr_scale, 0.0, 1000.0);
                adam(check, betas, eps);
            }
        }
    }

    fn check_adafactor(&self, check: &mut Check) {
        let at = |name: &str| format!("{PATH}.{name}");
        let Optimizer::Adafactor {
            eps,
            clip_threshold,
            decay_rate,
            beta1,
            relative_step,
            warmup_init,
            scale_parameter: _,
        } = *self
        else {
            return;
        };
        check.range(&at("eps"), eps.0, 0.0..f64::INFINITY, "0 or more, the first");
        check.range(&at("eps"), eps.1, 0.0..f64::INFINITY, "0 or more, the second");
        check.above(&at("clip_threshold"), clip_threshold, 0.0, 1e6);
        check.range(&at("decay_rate"), decay_rate, -1.0..0.0, "-1 to below 0");
        check.some(&at("beta1"), beta1, 0.0..1.0, "0 to below 1");
        check.that(relative_step || !warmup_init, &at("warmup_init"), || "needs relative_step".to_owned());
    }
}

fn share(check: &mut Check, name: &str, value: f64) {
    check.range(&format!("{PATH}.{name}"), value, 0.0..1.0, "0 to below 1");
}

fn pair(check: &mut Check, betas: (f64, f64)) {
    let param = format!("{PATH}.betas");
    check.range(&param, betas.0, 0.0..1.0, "0 to below 1, the first");
    check.range(&param, betas.1, 0.0..1.0, "0 to below 1, the second");
}

fn adam(check: &mut Check, betas: (f64, f64), eps: f64) {
    pair(check, betas);
    check.range(&format!("{PATH}.eps"), eps, 0.0..f64::INFINITY, "0 or more");
}
