//! The form and the API speak of the same settings.

use serde_json::json;
use store::spec::{JobSpec, Optimizer, Precision};

use super::optimizer;
use super::*;

fn with(pairs: &[(&str, &str)]) -> Values {
    let mut values = defaults();
    values.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    values
}

#[test]
fn an_untouched_form_asks_for_the_defaults() {
    let request = request(&defaults()).expect("defaults can be read");
    let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
    let read = store::spec::request::hyperparameters(fields, None).expect("the API takes them");
    assert_eq!(read.training, store::spec::Training::default());
    assert!(changed(&defaults()).is_empty());
}

#[test]
fn the_settings_of_a_job_come_back_through_the_form() {
    let spec = json!({
        "task": "text-classification", "columns": {"text": "a", "label": "b"}, "data": {"train": "x"},
        "seed": 7, "split": {"fraction": 0.2, "test_fraction": 0.1, "seed": 3, "stratify": false},
        "training": {
            "epochs": 1.5, "batch_size": 8, "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": true},
            "lr_scheduler": {"name": "polynomial", "warmup_ratio": 0.1, "power": 2.0, "end_learning_rate": 1e-7,
                "warmup_steps": null, "cycles": 0.5},
            "freeze": {"embeddings": true, "first_layers": 2}, "layer_decay": 0.9, "dropout": 0.2,
            "precision": "bf16_pure", "gradient_checkpointing": true,
            "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": ["query", "value"], "dora": true,
                "quantization": "nf4"},
            "class_weights": {"a=b": 2.0, "c": 1.0}, "eval_every": {"steps": 20},
            "early_stopping": {"metric": "f1", "patience": 2, "min_delta": 0.01}
        }
    });
    let spec: JobSpec = serde_json::from_value(spec).expect("a specification");
    let request = request(&values_of(&spec)).expect("can be read");
    let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
    assert_eq!(
        store::spec::request::hyperparameters(fields, None).expect("accepted").training,
        spec.training
    );
    assert_eq!(request["seed"], 7);
    assert_eq!(request["validation_split"]["test_fraction"], 0.1);
    assert_eq!(request["validation_split"]["stratify"], false);
}

#[test]
fn the_settings_of_targets_come_back_through_the_form() {
    let spec = json!({
        "task": "translation", "columns": {"source": "a", "target": "b"}, "data": {"train": "x"},
        "training": {"text_to_text": {
            "source_prefix": "translate English to French: ", "source_lang": "en_XX", "target_lang": "fr_XX",
            "max_target_length": 64, "generated_rows": 0, "num_beams": 6, "length_penalty": 0.6,
            "no_repeat_ngram_size": 3, "early_stopping": true, "forced_bos_token": "fr_XX",
            "bleu_tokenizer": "intl", "rouge_stemmer": true
        }}
    });
    let spec: JobSpec = serde_json::from_value(spec).expect("a specification");
    let request = request(&values_of(&spec)).expect("can be read");
    let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
    let read = store::spec::request::hyperparameters(fields, None).expect("accepted").training;
    assert_eq!(read.text_to_text, spec.training.text_to_text);
    let (_, groups) = super::fields(&values_of(&spec), &Values::new());
    let prefix = groups.iter().flat_map(|group| &group.fields).find(|field| !field.suggestions.is_empty());
    assert_eq!(prefix.expect("a field with suggestions").name, "text_to_text.source_prefix");
}

#[test]
fn the_settings_of_every_optimizer_come_back_through_the_form() {
    for optimizer in [
        json!({"name": "adam", "betas": [0.8, 0.9], "eps": 1e-6, "amsgrad": true}),
        json!({"name": "lion"}),
        json!({"name": "lion", "betas": [0.95, 0.98]}),
        json!({"name": "adafactor"}),
        json!({"name": "adafactor", "eps": [1e-20, 1e-4], "clip_threshold": 2.0, "decay_rate": -0.5, "beta1": 0.9,
            "scale_parameter": false, "relative_step": false}),
        json!({"name": "muon"}),
        json!({"name": "muon", "momentum": 0.9, "nesterov": false, "ns_steps": 6, "adjust_lr": "match_rms_adamw",
            "adamw_lr_scale": 0.5, "betas": [0.8, 0.9], "eps": 1e-6}),
        json!({"name": "adamw_8bit", "betas": [0.8, 0.9]}),
        json!({"name": "sparse_adam", "eps": 1e-6}),
    ] {
        let right: Optimizer = serde_json::from_value(optimizer).expect("an optimizer");
        let mut values = defaults();
        values.extend(optimizer::values_of(&right));
        let request = request(&values).expect("can be read");
        let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
        let read = store::spec::request::hyperparameters(fields, None).expect("accepted");
        assert_eq!(read.training.optimizer, right);
    }
}

#[test]
fn the_form_offers_every_precision_and_says_what_auto_takes() {
    let (_, groups) = fields(&defaults(), &Values::new());
    let field = groups.iter().flat_map(|group| &group.fields).find(|field| field.name == "precision");
    let field = field.expect("a field for precision");
    let FieldKind::Select(choices) = &field.kind else { panic!("precision is a choice") };
    let offered: Vec<_> = choices.iter().map(|choice| choice.value.as_str()).collect();
    assert_eq!(offered, Precision::ALL.map(Precision::name));
    assert_eq!(field.value, "auto");
    assert!(field.help.contains("Auto takes bf16"), "{}", field.help);
    assert_eq!(changed(&with(&[("precision", "bf16")])), ["Precision"]);
}

#[test]
fn what_cannot_be_read_is_told_at_every_field_at_once() {
    let values = with(&[
        ("learning_rate", "fast"),
        ("n_epochs", "many"),
        ("class_weights", "by_name"),
        ("class_weights.by_name", "spam"),
    ]);
    let errors = request(&values).expect_err("three fields are wrong");
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["class_weights.by_name", "learning_rate", "n_epochs"]);
}

#[test]
fn a_setting_that_means_nothing_is_not_sent() {
    let values = with(&[("optimizer.name", "sgd"), ("optimizer.momentum", "0.9"), ("optimizer.beta1", "x")]);
    let request = request(&values).expect("beta1 is no setting of SGD");
    let optimizer = &request["method"]["supervised"]["hyperparameters"]["optimizer"];
    assert_eq!(optimizer, &json!({"name": "sgd", "momentum": 0.9, "dampening": 0, "nesterov": false}));
}

#[test]
fn errors_of_the_api_find_their_field() {
    for (param, input) in [
        ("method.supervised.hyperparameters.learning_rate", "learning_rate"),
        ("training.optimizer.betas", "optimizer.beta1"),
        ("training.epochs", "n_epochs"),
        ("split.fraction", "validation_split.fraction"),
        ("training.precision", "precision"),
        ("class_weights.spam", "class_weights.by_name"),
        ("training.early_stopping.patience", "early_stopping.patience"),
        ("training.lora.rank", "lora.rank"),
        ("lora.quantization", "lora.kind"),
    ] {
        assert_eq!(input_of(param).as_deref(), Some(input), "{param}");
    }
    assert_eq!(input_of("model"), None);
}

#[test]
fn an_adapter_is_sent_where_one_is_chosen_and_its_rate_is_the_apis() {
    let plain = request(&with(&[("lora.rank", "4")])).expect("can be read");
    assert!(plain["method"]["supervised"]["hyperparameters"].get("lora").is_none());
    let chosen =
        request(&with(&[("lora.kind", "lora"), ("lora.targets", "query, value")])).expect("can be read");
    let fields = chosen["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
    let training = store::spec::request::hyperparameters(fields, None).expect("accepted").training;
    assert_eq!(training.learning_rate, 2e-4);
    let lora = training.lora.expect("an adapter");
    assert_eq!(lora.targets, store::spec::Targets::Named(vec!["query".into(), "value".into()]));
    assert_eq!(changed(&with(&[("lora.kind", "qlora")])), ["Adapter"]);
}

#[test]
fn the_settings_of_text_generation_come_back_through_the_form_and_no_others_go_with_them() {
    for (template, choice) in [(None, ""), (Some("chatml"), "chatml"), (Some("{{ messages }}"), "jinja")] {
        let spec = json!({"task": "text-generation", "data": {"train": "x"},
            "training": {"loss_on": "all", "chat_template": template}});
        let spec: JobSpec = serde_json::from_value(spec).expect("a specification");
        let mut values = values_of(&spec);
        assert_eq!(values["chat_template"], choice);
        values.extend(with(&[]).into_iter().filter(|(name, _)| name.starts_with("class_weights")));
        values.insert("class_weights".to_owned(), "balanced".to_owned());
        let request = request(&values).expect("can be read");
        let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
        let read = store::spec::request::hyperparameters(fields, None).expect("accepted");
        assert_eq!(read.training, spec.training);
        assert!(request["validation_split"].get("stratify").is_none(), "{request}");
    }
    let untouched = with(&[("loss_on", "all"), ("chat_template", "chatml")]);
    let sent = request(&untouched).expect("can be read");
    assert!(sent["method"]["supervised"]["hyperparameters"].get("loss_on").is_none(), "{sent}");
    assert!(changed(&untouched).is_empty(), "a table is classified");
    let empty = with(&[("task", "text-generation"), ("chat_template", "jinja")]);
    assert!(request(&empty).expect_err("no template is written").contains_key("chat_template.jinja"));
}

#[test]
fn the_form_offers_every_template_that_has_a_name() {
    let (_, groups) = fields(&defaults(), &Values::new());
    let field = groups.iter().flat_map(|group| &group.fields).find(|field| field.name == "chat_template");
    let FieldKind::Select(choices) = &field.expect("a field for the template").kind else {
        panic!("the template is a choice")
    };
    let offered: Vec<_> = choices.iter().map(|choice| choice.value.as_str()).collect();
    let named = formats::chat_template::named_templates().iter().map(|template| template.name);
    assert_eq!(offered, std::iter::once("").chain(named).chain(["jinja"]).collect::<Vec<_>>());
}

#[test]
fn prompts_of_samples_come_back_through_the_form() {
    let turns = json!([{"role": "user", "content": "a"}]);
    for (prompts, written) in [
        (json!([]), ""),
        (json!(["one", "two words"]), "one\ntwo words"),
        (json!(["two\nlines"]), "["),
        (json!(["[one]", "two"]), "["),
        (json!(["one", turns]), "["),
    ] {
        let spec = json!({"task": "text-generation", "data": {"train": "x"},
            "training": {"samples": {"prompts": prompts, "rows": 2, "temperature": 0.5}}});
        let spec: JobSpec = serde_json::from_value(spec).expect("a specification");
        let values = values_of(&spec);
        let field = &values["samples.prompts"];
        assert!(if written == "[" { field.starts_with('[') } else { field == written }, "{field}");
        let request = request(&values).expect("can be read");
        let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
        let read = store::spec::request::hyperparameters(fields, None).expect("accepted");
        assert_eq!(read.training.samples, spec.training.samples);
    }
    let broken = with(&[("task", "text-generation"), ("samples.prompts", "[\"a\"")]);
    assert!(request(&broken).expect_err("no JSON")["samples.prompts"].contains("no JSON"));
    assert_eq!(input_of("training.samples.prompts[1][0].role").as_deref(), Some("samples.prompts"));
    assert_eq!(input_of("hyperparameters.samples.max_tokens").as_deref(), Some("samples.max_tokens"));
}
