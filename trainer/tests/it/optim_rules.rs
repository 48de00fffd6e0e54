//! The rules beyond SGD, Adam and RMSprop against their references, see `fixtures/make_optim_rules.py`; gradients of
//! rows, numbers of threads and resuming for every rule.

use std::collections::BTreeMap;
use std::path::PathBuf;

use luthier_trainer::models::Depth;
use luthier_trainer::optim::{Group, Optimizer, clip_coefficient, groups};
use luthier_trainer::tensors;
use serde::Deserialize;
use serde_json::json;
use store::spec::{Optimizer as Rule, Schedule, Training};
use tch::{Device, Kind, Tensor};

/// `optim_rules.json`.
#[derive(Deserialize)]
struct Fixture {
    shapes: BTreeMap<String, Vec<i64>>,
    steps: u64,
    peak: f64,
    optimizers: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    optimizer: Rule,
    weight_decay: f64,
    after: BTreeMap<u64, BTreeMap<String, Vec<f64>>>,
}

type Params = Vec<(String, Tensor)>;

fn fixture() -> Fixture {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optim_rules.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const TABLE: &str = "embeddings.weight";

/// Rows that a step looks up, as `touched` in the script.
fn touched(step: u64) -> Vec<i64> {
    let of_seven = (0u64..80).filter(|row| (row + step).is_multiple_of(7));
    of_seven.chain([(3 * step) % 80; 2]).map(|row| row as i64).collect()
}

impl Fixture {
    /// As `drawn` in the script.
    fn drawn(&self, salt: u64, name: &str) -> Tensor {
        let shape = &self.shapes[name];
        let index = self.shapes.keys().position(|other| other == name).unwrap() as u64;
        let number = |i: u64| {
            let mut x = ((i + 1_000_003 * salt + 7919 * index) * 2_654_435_761) % (1 << 32);
            x ^= x >> 15;
            x = (x * 2_246_822_519) % (1 << 32);
            x ^= x >> 13;
            (x as f64 / (1u64 << 32) as f64 - 0.5) as f32
        };
        let numbers: Vec<f32> = (0..shape.iter().product::<i64>() as u64).map(number).collect();
        Tensor::from_slice(&numbers).view(shape.as_slice())
    }

    fn params(&self) -> Params {
        let param = |name: &String| (name.clone(), self.drawn(0, name).set_requires_grad(true));
        self.shapes.keys().map(param).collect()
    }

    fn rate(&self, step: u64) -> f64 {
        self.peak * (self.steps - step + 1) as f64 / self.steps as f64
    }

    fn lookups(&self, step: u64) -> Tensor {
        self.drawn(step, TABLE).narrow(0, 0, touched(step).len() as i64)
    }

    /// Steps `from..=to` with the script's gradients; those of the table are of lookups where `lazy`.
    fn run(&self, optimizer: &mut Optimizer, params: &Params, from: u64, to: u64, lazy: bool) {
        for step in from..=to {
            optimizer.zero_grad().unwrap();
            for (name, param) in params {
                if lazy && name == TABLE {
                    look_up(param, &touched(step), &self.lookups(step), true);
                } else {
                    (param * self.drawn(step, name)).sum(Kind::Float).backward();
                }
            }
            optimizer.step(self.rate(step), 1.0).unwrap();
        }
    }
}

/// Gives `param` the gradient of lookups that are multiplied by `weights`.
fn look_up(param: &Tensor, rows: &[i64], weights: &Tensor, sparse: bool) {
    let found = Tensor::embedding(param, &Tensor::from_slice(rows), -1, false, sparse);
    (found * weights).sum(Kind::Float).backward();
}

fn optimizer(rule: &Rule, weight_decay: f64, params: &Params) -> Optimizer {
    let group = |hidden: bool| Group {
        params: params
            .iter()
            .filter(|(name, _)| name.starts_with("layer.") == hidden)
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect(),
        lr_scale: 1.0,
        weight_decay,
        hidden,
    };
    Optimizer::of_groups(rule.clone(), vec![group(true), group(false)], Schedule::default(), 1.0)
}

fn is_lazy(rule: &Rule) -> bool {
    matches!(rule, Rule::SparseAdam { .. })
}

/// As `shown` in the script.
fn shown(tensor: &Tensor) -> Vec<f64> {
    let every = match tensor.numel() {
        1001.. => 37,
        101.. => 5,
        _ => 1,
    };
    let numbers: Vec<f64> = Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap();
    numbers.into_iter().step_by(every).collect()
}

#[test]
fn fifty_steps_of_every_rule_equal_its_reference_within_1e_6() {
    let fixture = fixture();
    let mut seen = Vec::new();
    for case in &fixture.optimizers {
        let params = fixture.params();
        let mut optimizer = optimizer(&case.optimizer, case.weight_decay, &params);
        let mut done = 0;
        for (&step, right) in &case.after {
            fixture.run(&mut optimizer, &params, done + 1, step, is_lazy(&case.optimizer));
            done = step;
            for (name, param) in &params {
                let found = shown(param);
                assert_eq!(found.len(), right[name].len());
                for (found, right) in found.iter().zip(&right[name]) {
                    assert!(
                        (found - right).abs() <= 1e-6 * right.abs().max(1.0),
                        "{:?} {name} after {step}: {found}, not {right}",
                        case.optimizer
                    );
                }
            }
        }
        assert_eq!(done, fixture.steps);
        seen.push(std::mem::discriminant(&case.optimizer));
    }
    seen.dedup();
    assert_eq!(seen.len(), 7, "adam, adamw, lion, adafactor, muon, adamw_8bit, sparse_adam");
}

#[test]
fn a_saved_state_of_every_rule_goes_on_with_the_same_bits() {
    let fixture = fixture();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    for case in &fixture.optimizers {
        let (rule, lazy) = (&case.optimizer, is_lazy(&case.optimizer));
        let whole = fixture.params();
        fixture.run(&mut optimizer(rule, case.weight_decay, &whole), &whole, 1, 20, lazy);

        let first = fixture.params();
        let mut before = optimizer(rule, case.weight_decay, &first);
        fixture.run(&mut before, &first, 1, 7, lazy);
        tensors::save(&path, &before.state()).unwrap();
        let second: Params = first
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.detach().copy().set_requires_grad(true)))
            .collect();
        let mut resumed = optimizer(rule, case.weight_decay, &second);
        resumed.load_state(tensors::load(&path).unwrap()).unwrap();
        fixture.run(&mut resumed, &second, 8, 20, lazy);
        for ((name, straight), (_, resumed)) in whole.iter().zip(&second) {
            assert!(straight.equal(resumed), "{rule:?} {name}");
        }
    }
}

/// The state by name: kind, shape and bytes of each part.
fn parts(rule: &str) -> BTreeMap<String, (Kind, Vec<i64>)> {
    let rule: Rule = serde_json::from_value(json!({"name": rule})).unwrap();
    let params = fixture().params();
    let state = optimizer(&rule, 0.0, &params).state();
    state.into_iter().map(|(name, tensor)| (name, (tensor.kind(), tensor.size()))).collect()
}

#[test]
fn small_and_hidden_parameters_keep_what_their_own_rule_needs() {
    let bytes = parts("adamw_8bit");
    assert_eq!(bytes["embeddings.weight.exp_avg"], (Kind::Uint8, vec![80, 64]));
    assert_eq!(bytes["embeddings.weight.exp_avg_sq_absmax"], (Kind::Float, vec![20]));
    assert_eq!(bytes["layer.0.wide.weight.exp_avg"], (Kind::Float, vec![12, 20]));
    assert!(!bytes.contains_key("layer.0.wide.weight.exp_avg_absmax"));

    let factored = parts("adafactor");
    assert_eq!(factored["layer.0.wide.weight.exp_avg_sq_row"].1, [12]);
    assert_eq!(factored["layer.0.wide.weight.exp_avg_sq_col"].1, [20]);
    assert_eq!(factored["layer.0.bias.exp_avg_sq"].1, [20]);

    let muon = parts("muon");
    assert!(muon.contains_key("layer.0.tall.weight.momentum_buffer"));
    assert!(!muon.contains_key("layer.0.tall.weight.exp_avg"));
    assert!(muon.contains_key("layer.0.bias.exp_avg") && muon.contains_key("embeddings.weight.exp_avg"));
}

#[test]
fn muon_takes_the_matrices_of_layers() {
    let depth = |name: &str| match name {
        TABLE => Depth::Embeddings,
        "classifier.weight" => Depth::Head,
        _ => Depth::Layer(0),
    };
    let mut params = fixture().params();
    params.push(("classifier.weight".to_owned(), Tensor::zeros([2, 20], (Kind::Float, Device::Cpu))));
    let hidden = |rule: &str| -> Vec<String> {
        let optimizer = serde_json::from_value(json!({"name": rule})).unwrap();
        let training = Training { optimizer, ..Training::default() };
        let groups = groups::build(&training, &params, 1, depth).unwrap();
        let hidden = groups.into_iter().filter(|group| group.hidden).flat_map(|group| group.params);
        hidden.map(|(name, _)| name).collect()
    };
    let mut found = hidden("muon");
    found.sort();
    assert_eq!(found, ["layer.0.bias", "layer.0.tall.weight", "layer.0.wide.weight"]);
    assert!(hidden("adamw").is_empty(), "nothing is divided for a rule that does not ask");
}

const RULES: [&str; 9] =
    ["sgd", "adam", "adamw", "rmsprop", "lion", "adafactor", "muon", "adamw_8bit", "sparse_adam"];

/// Three steps that are clipped, of a table whose rows are looked up and of a matrix.
fn clipped_steps(rule: &str, sparse: bool, threads: usize) -> Vec<Tensor> {
    native::runtime::set_threads(threads).unwrap();
    let rule: Rule = serde_json::from_value(json!({"name": rule})).unwrap();
    let number = |n: i64, salt: f64| {
        ((Tensor::arange(n, (Kind::Double, Device::Cpu)) * 0.37 + salt).sin() * 3.0).to_kind(Kind::Float)
    };
    let leaf =
        |rows: i64, columns: i64| number(rows * columns, 0.5).view([rows, columns]).set_requires_grad(true);
    let (table, matrix) = (leaf(900, 65), leaf(130, 210));
    let params = vec![
        (TABLE.to_owned(), table.shallow_clone()),
        ("layer.0.weight".to_owned(), matrix.shallow_clone()),
    ];
    let mut optimizer = optimizer(&rule, 0.1, &params);
    for step in 0..3 {
        optimizer.zero_grad().unwrap();
        let rows: Vec<i64> = (0..300).map(|i| (i * i + 11 * step) % 450).collect();
        look_up(&table, &rows, &number(300 * 65, step as f64).view([300, 65]), sparse);
        (&matrix * number(130 * 210, step as f64).view([130, 210])).sum(Kind::Float).backward();
        let norm = optimizer.grad_norm().unwrap().double_value(&[]) as f32;
        let scale = clip_coefficient(norm, 1.0);
        assert!(scale < 0.1);
        optimizer.step(0.01, scale).unwrap();
    }
    let state = optimizer.state().into_iter().map(|(_, tensor)| tensor);
    [table.detach(), matrix.detach()].into_iter().chain(state).collect()
}

fn same(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equal(b))
}

#[test]
fn gradients_of_rows_give_the_bits_of_dense_ones_under_every_rule_but_the_lazy_one() {
    for rule in RULES {
        let equal = same(&clipped_steps(rule, true, 1), &clipped_steps(rule, false, 1));
        assert_eq!(equal, rule != "sparse_adam", "{rule}");
    }
}

#[test]
fn every_rule_gives_the_same_bits_on_one_and_two_threads() {
    for rule in RULES {
        for sparse in [false, true] {
            assert!(same(&clipped_steps(rule, sparse, 1), &clipped_steps(rule, sparse, 2)), "{rule}");
        }
    }
}

/// Losses of least squares with 8,192 weights.
fn losses(rule: &str) -> Vec<f64> {
    let number = |n: i64, by: f64| (Tensor::arange(n, (Kind::Float, Device::Cpu)) * by).sin();
    let inputs = number(256 * 128, 12.9898).view([256, 128]);
    let right = inputs.matmul(&number(128 * 64, 78.233).view([128, 64]));
    let weight = Tensor::zeros([128, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let params = vec![("layer.0.weight".to_owned(), weight.shallow_clone())];
    let rule: Rule = serde_json::from_value(json!({"name": rule})).unwrap();
    let mut optimizer = optimizer(&rule, 0.0, &params);
    let step = |step: u64| {
        optimizer.zero_grad().unwrap();
        let loss = (inputs.matmul(&weight) - &right).square().mean(Kind::Float);
        loss.backward();
        optimizer.step(0.02 * (1.0 - step as f64 / 100.0), 1.0).unwrap();
        loss.double_value(&[])
    };
    (0..100).map(step).collect()
}

#[test]
fn eight_bits_learn_as_32_do() {
    let (wide, narrow) = (losses("adamw"), losses("adamw_8bit"));
    assert!(wide[99] < wide[0] / 100.0, "{wide:?}");
    for step in [10, 30, 60] {
        assert!(
            (narrow[step] / wide[step] - 1.0).abs() < 0.05,
            "{step}: {} and {}",
            narrow[step],
            wide[step]
        );
    }
    assert!(narrow[99] < wide[0] / 100.0, "{narrow:?}");
    assert_ne!(narrow, wide, "it is another rule");
}
