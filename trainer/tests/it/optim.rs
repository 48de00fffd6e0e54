//! Optimizers against torch.optim, schedules and groups against transformers; see `fixtures/make_optim.py`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use luthier_trainer::failure::Failure;
use luthier_trainer::models::Depth;
use luthier_trainer::optim::{Group, Optimizer, StateError, clip_coefficient, groups, schedule};
use luthier_trainer::tensors;
use serde::Deserialize;
use serde_json::json;
use store::spec::{Freeze, Optimizer as Rule, Schedule, Training};
use tch::{Device, Kind, Tensor};

type Values = BTreeMap<String, Vec<f64>>;

/// `optim.json`, see `make_optim.py`.
#[derive(Deserialize)]
struct Fixture {
    shapes: BTreeMap<String, Vec<i64>>,
    start: Values,
    grads: Vec<Values>,
    learning_rates: Vec<f64>,
    optimizers: Vec<Case>,
    clipping: Vec<Clipping>,
    schedules: Vec<Curve>,
}

#[derive(Deserialize)]
struct Case {
    optimizer: Rule,
    weight_decay: f64,
    after: BTreeMap<usize, Values>,
    state: Values,
}

#[derive(Deserialize)]
struct Clipping {
    max_norm: f64,
    norm: f64,
    grads: Values,
}

#[derive(Deserialize)]
struct Curve {
    schedule: Schedule,
    peak: f64,
    total: u64,
    factors: Vec<f64>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture() -> Fixture {
    serde_json::from_slice(&std::fs::read(fixtures().join("optim.json")).unwrap()).unwrap()
}

impl Fixture {
    fn tensor(&self, values: &Values, name: &str) -> Tensor {
        Tensor::from_slice(&values[name]).to_kind(Kind::Float).view(self.shapes[name].as_slice())
    }

    /// Trainable parameters at their start.
    fn params(&self) -> Vec<(String, Tensor)> {
        let param = |name: &String| (name.clone(), self.tensor(&self.start, name).set_requires_grad(true));
        self.shapes.keys().map(param).collect()
    }

    fn optimizer(&self, case: &Case, params: &[(String, Tensor)]) -> Optimizer {
        let group =
            Group { params: shared(params), lr_scale: 1.0, weight_decay: case.weight_decay, hidden: false };
        Optimizer::of_groups(case.optimizer.clone(), vec![group], Schedule::default(), 1.0)
    }

    /// Steps `from..to` with the fixture's gradients.
    fn run(&self, optimizer: &mut Optimizer, params: &[(String, Tensor)], from: usize, to: usize) {
        for (grads, &rate) in self.grads[from..to].iter().zip(&self.learning_rates[from..to]) {
            optimizer.zero_grad().unwrap();
            for (name, param) in params {
                give(param, &self.tensor(grads, name));
            }
            optimizer.step(rate, 1.0).unwrap();
        }
    }
}

fn shared(params: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    params.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}

/// Makes `grad` the gradient of `param`: that of their dot product.
fn give(param: &Tensor, grad: &Tensor) {
    (param * grad).sum(Kind::Float).backward();
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

fn assert_close(found: &Tensor, right: &[f64], what: &str) {
    let found = numbers(found);
    assert_eq!(found.len(), right.len(), "{what}");
    for (found, right) in found.iter().zip(right) {
        assert!((found - right).abs() <= 1e-6 * right.abs().max(1.0), "{what}: {found}, not {right}");
    }
}

#[test]
fn twenty_steps_of_every_optimizer_equal_torch_optim_within_1e_6() {
    let fixture = fixture();
    for case in &fixture.optimizers {
        let params = fixture.params();
        let mut optimizer = fixture.optimizer(case, &params);
        let mut done = 0;
        for (&step, right) in &case.after {
            fixture.run(&mut optimizer, &params, done, step);
            done = step;
            for (name, param) in &params {
                assert_close(param, &right[name], &format!("{:?} {name} after {step}", case.optimizer));
            }
        }
        assert_eq!(done, 20);
        let state: BTreeMap<_, _> = optimizer.state().into_iter().collect();
        // torch's RMSprop counts its steps and never looks at the count.
        let uses = |name: &str| !(matches!(case.optimizer, Rule::Rmsprop { .. }) && name.ends_with(".step"));
        for (name, right) in case.state.iter().filter(|(name, _)| uses(name)) {
            assert_close(&state[name], right, &format!("{:?} {name}", case.optimizer));
        }
    }
}

#[test]
fn a_saved_state_goes_on_with_the_same_bits() {
    let fixture = fixture();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("optimizer.safetensors");
    for case in &fixture.optimizers {
        let whole = fixture.params();
        fixture.run(&mut fixture.optimizer(case, &whole), &whole, 0, 20);

        let first = fixture.params();
        let mut optimizer = fixture.optimizer(case, &first);
        fixture.run(&mut optimizer, &first, 0, 7);
        tensors::save(&path, &optimizer.state()).unwrap();
        let second: Vec<_> = first
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.detach().copy().set_requires_grad(true)))
            .collect();
        let mut resumed = fixture.optimizer(case, &second);
        resumed.load_state(tensors::load(&path).unwrap()).unwrap();
        fixture.run(&mut resumed, &second, 7, 20);
        for ((name, straight), (_, resumed)) in whole.iter().zip(&second) {
            assert!(straight.equal(resumed), "{:?} {name}", case.optimizer);
        }
    }
}

#[test]
fn a_state_that_is_not_this_optimizers_is_refused_whole() {
    let fixture = fixture();
    let case = fixture.optimizers.iter().find(|case| matches!(case.optimizer, Rule::Adamw { .. })).unwrap();
    let params = fixture.params();
    let mut optimizer = fixture.optimizer(case, &params);
    fixture.run(&mut optimizer, &params, 0, 3);
    let ones = || -> Vec<_> {
        optimizer.state().iter().map(|(name, tensor)| (name.clone(), tensor.ones_like())).collect()
    };
    let (mut fewer, mut more, mut reshaped, mut recast) = (ones(), ones(), ones(), ones());
    let (gone, _) = fewer.pop().unwrap();
    more.push(("other.exp_avg".into(), Tensor::ones([1], (Kind::Float, Device::Cpu))));
    reshaped[0].1 = Tensor::ones([99], (Kind::Float, Device::Cpu));
    recast[0].1 = recast[0].1.to_kind(Kind::Double);

    let before: Vec<_> = optimizer.state().iter().map(|(_, tensor)| tensor.copy()).collect();
    let mut refused = |saved| optimizer.load_state(saved).unwrap_err();
    assert!(
        matches!(refused(fewer), StateError::Names { missing, unexpected } if missing == [gone] && unexpected.is_empty())
    );
    assert!(
        matches!(refused(more), StateError::Names { missing, unexpected } if missing.is_empty() && unexpected == ["other.exp_avg"])
    );
    let wrong = refused(reshaped).to_string();
    assert!(wrong.contains("exp_avg` is Float [99], it must be Float ["), "{wrong}");
    assert!(refused(recast).to_string().contains("is Double"));
    assert!(optimizer.state().iter().zip(before).all(|((_, now), then)| now.equal(&then)));
}

#[test]
fn clipping_is_that_of_torch() {
    let fixture = fixture();
    for case in &fixture.clipping {
        let params = fixture.params();
        let mut optimizer = fixture.optimizer(&fixture.optimizers[0], &params);
        for (name, param) in &params {
            give(param, &fixture.tensor(&fixture.grads[0], name));
        }
        let norm = optimizer.grad_norm().unwrap();
        assert_close(&norm, &[case.norm], "norm");
        for (name, param) in &params {
            assert!(param.grad().equal(&fixture.tensor(&fixture.grads[0], name)), "a norm changes nothing");
        }
        let scale = clip_coefficient(norm.double_value(&[]) as f32, case.max_norm);
        optimizer.step(1.0, scale).unwrap();
        // Plain SGD: the parameter moves by the clipped gradient.
        for (name, param) in &params {
            let moved = fixture.tensor(&fixture.start, name) - param;
            assert_close(&moved, &case.grads[name], name);
        }
    }
}

#[test]
fn schedules_equal_those_of_transformers() {
    for curve in fixture().schedules {
        for (step, right) in curve.factors.iter().enumerate() {
            let found = schedule::factor(&curve.schedule, curve.peak, step as u64, curve.total);
            assert!((found - right).abs() <= 1e-12, "{:?} step {step}: {found}, not {right}", curve.schedule);
        }
    }
}

#[test]
fn a_parameter_without_gradient_stays_and_begins_with_its_own_first_step() {
    let rule = Rule::Sgd { momentum: 0.9, dampening: 0.5, nesterov: false };
    let leaf = || Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let grad = Tensor::from_slice(&[1.0f32, -2.0, 0.5]);
    let run = |late: bool| {
        let (a, b) = (leaf(), leaf());
        let params = vec![("a".to_owned(), a.shallow_clone()), ("b".to_owned(), b.shallow_clone())];
        let group = Group { params, lr_scale: 1.0, weight_decay: 0.0, hidden: false };
        let mut optimizer = Optimizer::of_groups(rule.clone(), vec![group], Schedule::default(), 1.0);
        for step in 0..3 {
            optimizer.zero_grad().unwrap();
            give(&a, &grad);
            if !late || step > 0 {
                give(&b, &grad);
            }
            optimizer.step(0.1, 1.0).unwrap();
            if late && step == 0 {
                assert!(b.equal(&leaf()), "no gradient, no change");
            }
        }
        (a, b)
    };
    let (three, _) = run(false);
    let (also_three, two) = run(true);
    assert!(three.equal(&also_three));
    // By hand: buffers g, then 0.9 g + 0.5 g.
    assert_close(&two, &numbers(&(leaf() - &grad * 0.1 - &grad * 0.14)), "two steps");
}

#[test]
fn zeroed_gradients_are_undefined_and_memory_is_counted() {
    let fixture = fixture();
    let params = fixture.params();
    let case = Case {
        optimizer: Rule::default(),
        weight_decay: 0.0,
        after: BTreeMap::new(),
        state: BTreeMap::new(),
    };
    let optimizer = fixture.optimizer(&case, &params);
    give(&params[0].1, &fixture.tensor(&fixture.grads[0], &params[0].0));
    optimizer.zero_grad().unwrap();
    assert!(!params[0].1.grad().defined());
    // Two moments for each of 12 + 5 numbers, and a count for each of 2 parameters, in 4 bytes each.
    assert_eq!(optimizer.memory_bytes(), (2 * 17 + 2) * 4);
}

fn depth(name: &str) -> Depth {
    let layer = name.split("layer.").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
    match layer {
        Some(layer) => Depth::Layer(layer),
        None if name.contains("embeddings.") => Depth::Embeddings,
        None => Depth::Head,
    }
}

/// Parameters of a small encoder of three layers.
fn encoder() -> Vec<(String, Tensor)> {
    let mut names =
        vec!["bert.embeddings.word.weight".to_owned(), "bert.embeddings.LayerNorm.bias".to_owned()];
    names.extend((0..3).map(|layer| format!("bert.encoder.layer.{layer}.dense.weight")));
    names.extend([
        "bert.pooler.dense.weight".to_owned(),
        "classifier.weight".to_owned(),
        "classifier.bias".to_owned(),
    ]);
    let tensor = |name: &str| {
        Tensor::zeros(if name.ends_with("bias") { vec![2] } else { vec![2, 2] }, (Kind::Float, Device::Cpu))
    };
    names.into_iter().map(|name| (name.clone(), tensor(&name))).collect()
}

fn trained(freeze: serde_json::Value) -> Result<Vec<String>, Failure> {
    let freeze: Freeze = serde_json::from_value(freeze).unwrap();
    let params = encoder();
    let training = Training { freeze, ..Training::default() };
    groups::build(&training, &params, 3, depth).map_err(|error| Failure::of(&error))?;
    let trained = params.into_iter().filter(|(_, tensor)| tensor.requires_grad());
    Ok(trained.map(|(name, _)| name.trim_start_matches("bert.").to_owned()).collect())
}

#[test]
fn what_is_frozen_gets_no_gradient() {
    let head = ["pooler.dense.weight", "classifier.weight", "classifier.bias"];
    assert_eq!(trained(json!({})).unwrap().len(), 8);
    assert_eq!(trained(json!({"embeddings": true})).unwrap()[0], "encoder.layer.0.dense.weight");
    let above_first_two = trained(json!({"embeddings": true, "first_layers": 2})).unwrap();
    assert_eq!(above_first_two[0], "encoder.layer.2.dense.weight");
    assert_eq!(above_first_two[1..], head);
    assert_eq!(trained(json!({"except_head": true})).unwrap(), head);
    let without_pattern = trained(json!({"except_head": true, "pattern": r"pooler|\.bias$"})).unwrap();
    assert_eq!(without_pattern, ["classifier.weight"]);
}

#[test]
fn freezing_that_cannot_be_meant_is_refused() {
    let code = |freeze| trained(freeze).unwrap_err().code;
    assert_eq!(code(json!({"first_layers": 4})), "too_many_layers");
    assert_eq!(code(json!({"pattern": "decoder"})), "pattern_matches_nothing");
    assert_eq!(code(json!({"pattern": "("})), "bad_pattern");
    assert_eq!(code(json!({"pattern": "."})), "nothing_to_train");
}

#[test]
fn a_layer_learns_slower_by_its_distance_from_the_head() {
    let training = Training { layer_decay: 0.5, ..Training::default() };
    let groups = groups::build(&training, &encoder(), 3, depth).unwrap();
    let scale = |wanted: &str| {
        groups.iter().find(|group| group.params.iter().any(|(name, _)| name == wanted)).unwrap().lr_scale
    };
    assert_eq!(scale("classifier.weight"), 1.0);
    assert_eq!(scale("bert.pooler.dense.weight"), 1.0);
    assert_eq!(scale("bert.encoder.layer.2.dense.weight"), 0.5);
    assert_eq!(scale("bert.encoder.layer.0.dense.weight"), 0.125);
    assert_eq!(scale("bert.embeddings.LayerNorm.bias"), 0.0625);
}

#[test]
fn a_groups_share_scales_its_step() {
    let leaf = || Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let (a, b) = (leaf(), leaf());
    let group = |name: &str, tensor: &Tensor, lr_scale| Group {
        params: vec![(name.to_owned(), tensor.shallow_clone())],
        lr_scale,
        weight_decay: 0.0,
        hidden: false,
    };
    let rule = Rule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false };
    let groups = vec![group("a", &a, 1.0), group("b", &b, 0.25)];
    let mut optimizer = Optimizer::of_groups(rule, groups, Schedule::default(), 1.0);
    give(&a, &leaf().detach());
    give(&b, &leaf().detach());
    optimizer.step(0.1, 1.0).unwrap();
    assert_close(&a, &[0.9, 0.9], "a");
    assert_close(&b, &[0.975, 0.975], "b");
    assert!(optimizer.state().is_empty());
}

#[test]
fn parameters_without_decay_are_those_of_transformers() {
    for family in ["bert", "roberta", "xlm_roberta", "distilbert"] {
        let path = fixtures().join(format!("expected/{family}.json"));
        let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let shapes: BTreeMap<String, Vec<i64>> =
            serde_json::from_value(expected["parameters"].clone()).unwrap();
        let mut right: Vec<String> =
            serde_json::from_value(expected["training"]["no_decay"].clone()).unwrap();
        let mut found: Vec<String> = shapes
            .into_iter()
            .filter(|(name, shape)| {
                !groups::decays(name, &Tensor::zeros(shape.as_slice(), (Kind::Float, Device::Cpu)))
            })
            .map(|(name, _)| name)
            .collect();
        right.sort();
        found.sort();
        assert_eq!(found, right, "{family}");
    }
}
