//! Learning from answers of which some are better than others.

use serde::{Deserialize, Serialize};

/// What a model is taught by pairs of a better and a worse answer to one prompt, or by single answers that are desirable or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preference {
    /// The rule.
    pub loss: PreferenceLoss,
    /// How closely the model keeps to where it began, or how much the rule weighs beside the better answer's own loss.
    pub beta: f64,
    /// SimPO's margin.
    pub gamma: f64,
    /// Weight of the mean loss of the better answers' tokens; `None` for the rule's own: 1 for ORPO and CPO, else 0.
    pub sft_weight: Option<f64>,
    /// Weight of desirable answers, for rules of single answers.
    pub desirable_weight: f64,
    /// Weight of undesirable ones.
    pub undesirable_weight: f64,
}

impl Default for Preference {
    fn default() -> Self {
        Preference {
            loss: PreferenceLoss::Sigmoid,
            beta: 0.1,
            gamma: 0.5,
            sft_weight: None,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
        }
    }
}

impl Preference {
    /// The weight of the better answers' own loss.
    pub fn weight_of_better(&self) -> f64 {
        self.sft_weight.unwrap_or(match self.loss {
            PreferenceLoss::Orpo | PreferenceLoss::Cpo => 1.0,
            _ => 0.0,
        })
    }
}

/// Rules for answers, by their names in TRL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO (R. Rafailov et al., 2023); with label smoothing the conservative one (E. Mitchell, 2023).
    #[default]
    Sigmoid,
    /// Robust DPO (S. Chowdhury et al., 2024): unbiased where label smoothing is the share of pairs the wrong way round.
    Robust,
    /// IPO (M. Azar et al., 2023), of means over an answer's tokens.
    Ipo,
    /// The hinge of SLiC (Y. Zhao et al., 2023).
    Hinge,
    /// ORPO (J. Hong et al., 2024).
    Orpo,
    /// CPO (H. Xu et al., 2024).
    Cpo,
    /// SimPO (Y. Meng et al., 2024).
    Simpo,
    /// KTO (K. Ethayarajh et al., 2024), of single answers.
    Kto,
    /// The unpaired form of APO-zero (K. D'Oosterlinck et al., 2024), of single answers.
    ApoZeroUnpaired,
}

impl PreferenceLoss {
    /// All of them.
    pub const ALL: [PreferenceLoss; 9] = [
        PreferenceLoss::Sigmoid,
        PreferenceLoss::Robust,
        PreferenceLoss::Ipo,
        PreferenceLoss::Hinge,
        PreferenceLoss::Orpo,
        PreferenceLoss::Cpo,
        PreferenceLoss::Simpo,
        PreferenceLoss::Kto,
        PreferenceLoss::ApoZeroUnpaired,
    ];

    /// The name in a specification.
    pub fn name(self) -> &'static str {
        match self {
            PreferenceLoss::Sigmoid => "sigmoid",
            PreferenceLoss::Robust => "robust",
            PreferenceLoss::Ipo => "ipo",
            PreferenceLoss::Hinge => "hinge",
            PreferenceLoss::Orpo => "orpo",
            PreferenceLoss::Cpo => "cpo",
            PreferenceLoss::Simpo => "simpo",
            PreferenceLoss::Kto => "kto",
            PreferenceLoss::ApoZeroUnpaired => "apo_zero_unpaired",
        }
    }

    /// Whether answers are compared with what the model held of them when it began.
    pub fn has_reference(self) -> bool {
        use PreferenceLoss::{ApoZeroUnpaired, Hinge, Ipo, Kto, Robust, Sigmoid};
        matches!(self, Sigmoid | Robust | Ipo | Hinge | Kto | ApoZeroUnpaired)
    }

    /// Whether it looks at single answers, and not at pairs of them.
    pub fn is_unpaired(self) -> bool {
        matches!(self, PreferenceLoss::Kto | PreferenceLoss::ApoZeroUnpaired)
    }
}
