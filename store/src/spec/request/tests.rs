use serde_json::{Map, Value, json};

use super::{Hyperparameters, hyperparameters};
use crate::spec::{
    Adapter, BatchSampler, ClassWeights, EarlyStopping, Embedding, EmbeddingLoss, Every, Freeze, LossOn,
    Optimizer, Precision, Preference, PreferenceLoss, Quantization, QuestionAnswering, SamplePrompt, Samples,
    Schedule, ScheduleName, SpecError, Targets, TextToText, Training,
};

fn read(value: Value) -> Result<Hyperparameters, SpecError> {
    hyperparameters(value.as_object().unwrap(), None)
}

#[test]
fn nothing_said_is_everything_auto_and_is_told() {
    let read = read(json!({"n_epochs": "auto"})).unwrap();
    assert_eq!(read.training, Training::default());
    let note = read.note().unwrap();
    assert_eq!(
        note,
        "Chosen automatically: n_epochs = 3, batch_size = 32, learning_rate_multiplier = 1.0, \
         learning_rate = 0.00005."
    );
}

#[test]
fn auto_takes_small_batches_and_more_epochs_for_few_rows() {
    let fields = Map::new();
    let few = hyperparameters(&fields, Some(100)).unwrap().training;
    assert_eq!((few.batch_size, few.epochs), (4, 4.0));
    let many = hyperparameters(&fields, Some(10_000)).unwrap().training;
    assert_eq!((many.batch_size, many.epochs), (32, 3.0));
}

#[test]
fn openais_three_become_ours() {
    let read = read(json!({"n_epochs": 2, "batch_size": 16, "learning_rate_multiplier": 0.4})).unwrap();
    assert_eq!((read.training.epochs, read.training.batch_size), (2.0, 16));
    assert!((read.training.learning_rate - 2e-5).abs() < 1e-15);
    assert_eq!(read.note(), None);
}

#[test]
fn every_field_of_ours_is_read() {
    let read = read(json!({
        "epochs": 1.5, "max_steps": 40, "batch_size": 8, "eval_batch_size": 64, "gradient_accumulation_steps": 4,
        "learning_rate": 3e-4, "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": true},
        "lr_scheduler": {"name": "cosine", "cycles": 1.5}, "warmup_ratio": 0.1, "weight_decay": 0.05,
        "max_grad_norm": 0, "max_length": 128, "precision": "bf16_pure", "label_smoothing": 0.1,
        "class_weights": {"pos": 2, "neg": 1}, "dropout": 0.2,
        "freeze": {"embeddings": true, "first_layers": 2, "pattern": "bias$"}, "layer_decay": 0.9, "log_every": 5,
        "eval_every": {"epochs": 0.5}, "checkpoint_every": 50, "best_metric": "f1",
        "early_stopping": {"metric": "f1", "patience": 2, "min_delta": 0.01}, "keep_checkpoints": 3,
        "deterministic": true, "gradient_checkpointing": true, "label_all_tokens": true,
        "preference": {"loss": "ipo", "beta": 0.3, "sft_weight": 0.5},
        "samples": {"prompts": ["a", [{"role": "user", "content": "b"}]], "max_tokens": 9, "temperature": 0.5, "seed": 3},
        "embedding": {"loss": "cosent", "scale": 10, "symmetric": true, "batch_sampler": "no_duplicates"},
        "question_answering": {"doc_stride": 64, "n_best": 5, "null_score_difference_threshold": -1.5},
    }))
    .unwrap();
    let expected = Training {
        label_all_tokens: true,
        epochs: 1.5,
        max_steps: Some(40),
        batch_size: 8,
        eval_batch_size: Some(64),
        gradient_accumulation_steps: 4,
        learning_rate: 3e-4,
        optimizer: Optimizer::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true },
        lr_scheduler: Schedule {
            name: ScheduleName::Cosine,
            warmup_ratio: Some(0.1),
            cycles: 1.5,
            ..Schedule::default()
        },
        weight_decay: 0.05,
        max_grad_norm: 0.0,
        max_length: Some(128),
        loss_on: LossOn::Assistant,
        chat_template: None,
        preference: Some(Preference {
            loss: PreferenceLoss::Ipo,
            beta: 0.3,
            sft_weight: Some(0.5),
            ..Preference::default()
        }),
        samples: Samples {
            prompts: vec![
                SamplePrompt::Text("a".to_owned()),
                SamplePrompt::Messages(vec![json!({"role": "user", "content": "b"})]),
            ],
            rows: None,
            max_tokens: 9,
            temperature: 0.5,
            seed: 3,
        },
        embedding: Some(Embedding {
            loss: Some(EmbeddingLoss::Cosent),
            scale: 10.0,
            symmetric: true,
            batch_sampler: BatchSampler::NoDuplicates,
        }),
        question_answering: Some(QuestionAnswering {
            doc_stride: 64,
            n_best: 5,
            null_score_difference_threshold: -1.5,
            ..QuestionAnswering::default()
        }),
        // In a test of its own.
        text_to_text: None,
        precision: Precision::Bf16Pure,
        label_smoothing: 0.1,
        class_weights: Some(ClassWeights::ByName([("neg".to_owned(), 1.0), ("pos".to_owned(), 2.0)].into())),
        dropout: Some(0.2),
        freeze: Freeze {
            embeddings: true,
            first_layers: 2,
            except_head: false,
            pattern: Some("bias$".to_owned()),
        },
        lora: None,
        layer_decay: 0.9,
        log_every: Some(5),
        eval_every: Every::Epochs(0.5),
        checkpoint_every: Some(50),
        best_metric: Some("f1".to_owned()),
        early_stopping: Some(EarlyStopping { metric: Some("f1".to_owned()), patience: 2, min_delta: 0.01 }),
        keep_checkpoints: 3,
        deterministic: true,
        gradient_checkpointing: true,
    };
    assert_eq!(read.training, expected);
}

#[test]
fn every_optimizer_is_read_as_the_specification_reads_it() {
    for name in ["sgd", "adam", "adamw", "rmsprop", "lion", "adafactor", "muon", "adamw_8bit", "sparse_adam"]
    {
        let right: Optimizer = serde_json::from_value(json!({"name": name})).unwrap();
        assert_eq!(read(json!({"optimizer": name})).unwrap().training.optimizer, right);
    }
    for optimizer in [
        json!({"name": "adam", "betas": [0.8, 0.9], "eps": 1e-6, "amsgrad": true}),
        json!({"name": "lion", "betas": [0.95, 0.98]}),
        json!({"name": "adafactor", "eps": [1e-20, 1e-4], "clip_threshold": 2.0, "decay_rate": -0.5,
            "beta1": 0.9, "scale_parameter": false, "relative_step": false, "warmup_init": false}),
        json!({"name": "muon", "momentum": 0.9, "nesterov": false, "ns_steps": 6,
            "adjust_lr": "match_rms_adamw", "adamw_lr_scale": 0.5, "betas": [0.8, 0.9], "eps": 1e-6}),
        json!({"name": "adamw_8bit", "betas": [0.8, 0.9], "eps": 1e-6}),
        json!({"name": "sparse_adam", "betas": [0.8, 0.9], "eps": 1e-6}),
    ] {
        let read = read(json!({"optimizer": optimizer})).unwrap().training.optimizer;
        assert_eq!(serde_json::to_value(&read).unwrap(), optimizer);
    }
}

#[test]
fn each_precision_is_read_by_its_name() {
    for precision in Precision::ALL {
        assert_eq!(read(json!({"precision": precision.name()})).unwrap().training.precision, precision);
    }
}

#[test]
fn a_mistyped_name_is_refused_with_the_nearest_one() {
    let error = read(json!({"learning_rat": 1e-4})).unwrap_err();
    assert_eq!(error.param, "learning_rat");
    assert!(error.message.contains("did you mean \"learning_rate\"?"), "{error}");
    let error = read(json!({"optimizer": {"name": "adamw", "beta": [0.9, 0.99]}})).unwrap_err();
    assert_eq!(error.param, "optimizer.beta");
    assert!(error.message.contains("\"betas\""), "{error}");
    let error = read(json!({"optimizer": "adamW2"})).unwrap_err();
    assert!(error.message.contains("did you mean \"adamw\"?"), "{error}");
    let error = read(json!({"precision": "bf61"})).unwrap_err();
    assert_eq!(error.param, "precision");
    assert!(error.message.contains("Known are auto, fp32, tf32, bf16, bf16_pure, fp16"), "{error}");
    let error = read(json!({"xyz": 1})).unwrap_err();
    assert!(error.message.contains("known are batch_size"), "{error}");
}

#[test]
fn a_wrong_type_says_field_found_and_expected() {
    for (value, param, words) in [
        (json!({"batch_size": "big"}), "batch_size", "found the text \"big\""),
        (json!({"batch_size": 2.5}), "batch_size", "found 2.5"),
        (json!({"batch_size": -1}), "batch_size", "found -1"),
        (json!({"n_epochs": [1]}), "n_epochs", "found a list of 1 items"),
        (json!({"weight_decay": "0.1"}), "weight_decay", "expected a number"),
        (json!({"optimizer": {"betas": [0.9, 0.9]}}), "optimizer.name", "is missing"),
        (json!({"optimizer": {"name": "adam", "betas": [0.9]}}), "optimizer.betas", "two numbers"),
        (
            json!({"optimizer": {"name": "muon", "adjust_lr": "rms"}}),
            "optimizer.adjust_lr",
            "match_rms_adamw",
        ),
        (json!({"optimizer": {"name": "lion", "eps": 1e-8}}), "optimizer.eps", "known are"),
        (json!({"class_weights": {"a": "x"}}), "class_weights.a", "expected a number"),
        (json!({"eval_every": {"steps": 1, "epochs": 1}}), "eval_every", "a number of steps"),
        (json!({"freeze": true}), "freeze", "expected an object, found true"),
        (json!({"gradient_checkpointing": 1}), "gradient_checkpointing", "expected true or false, found 1"),
        (json!({"learning_rate": 1e-4, "learning_rate_multiplier": 2}), "learning_rate", "excludes"),
        (json!({"learning_rate_multiplier": 0}), "learning_rate_multiplier", "above 0"),
        (json!({"epochs": 1, "n_epochs": 1}), "epochs", "same as n_epochs"),
        (json!({"lora": {"r": 8}}), "lora.r", "known are rank"),
        (
            json!({"warmup_steps": 5, "lr_scheduler": {"name": "linear", "warmup_steps": 5}}),
            "warmup_steps",
            "twice",
        ),
    ] {
        let error = read(value).unwrap_err();
        assert_eq!(error.param, param, "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn an_adapter_is_read_with_a_learning_rate_of_its_own() {
    let plain = read(json!({"lora": true})).unwrap();
    assert_eq!(plain.training.lora, Some(Adapter::default()));
    assert_eq!(plain.training.learning_rate, 2e-4);
    assert!(plain.note().unwrap().contains("learning_rate = 0.0002"));
    let doubled = read(json!({"lora": {}, "learning_rate_multiplier": 2})).unwrap().training;
    assert_eq!(doubled.learning_rate, 4e-4);
    assert_eq!(read(json!({"lora": false})).unwrap().training, Training::default());
    let all =
        read(json!({"learning_rate": 1e-3, "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "rslora": true,
        "dora": true, "targets": ["query", "value"], "quantization": "nf4", "merge": true}}));
    let expected = Adapter {
        rank: 4,
        alpha: 8.0,
        dropout: 0.1,
        targets: Targets::Named(vec!["query".into(), "value".into()]),
        rslora: true,
        dora: true,
        quantization: Some(Quantization::Nf4),
        merge: true,
    };
    let all = all.unwrap().training;
    assert_eq!((all.learning_rate, all.lora), (1e-3, Some(expected)));
    for (value, param, words) in [
        (json!({"targets": "query"}), "lora.targets", "\"all-linear\" or a list"),
        (json!({"targets": [1]}), "lora.targets", "a list of names"),
        (json!({"quantization": "fp4"}), "lora.quantization", "nf4"),
        (json!(8), "lora", "true or an object"),
    ] {
        let error = read(json!({"lora": value})).unwrap_err();
        assert_eq!(error.param, param);
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn samples_are_asked_for_in_short_or_in_full_and_can_be_asked_for_again() {
    let samples = |value: Value| read(json!({"samples": value})).unwrap().training.samples;
    assert_eq!(samples(json!(true)), Samples::default());
    assert_eq!((samples(json!({})).of_rows(), samples(json!({})).is_off()), (3, false));
    let own = samples(json!({"prompts": ["a"]}));
    assert_eq!(own.of_rows(), 0);
    assert_eq!(samples(json!({"prompts": ["a"], "rows": 2})).of_rows(), 2);
    let off = samples(json!(false));
    assert!(off.is_off());
    for made in [own, off] {
        assert_eq!(samples(json!(made)), made);
    }
    for (value, param, words) in [
        (json!(3), "samples", "true, false or an object"),
        (json!({"prompts": "a"}), "samples.prompts", "a list of texts"),
        (json!({"prompts": ["a", 7]}), "samples.prompts[1]", "a text or a list of messages"),
        (json!({"prompt": ["a"]}), "samples.prompt", "did you mean \"prompts\""),
        (json!({"max_tokens": "many"}), "samples.max_tokens", "whole number"),
    ] {
        let error = read(json!({"samples": value})).unwrap_err();
        assert_eq!(error.param, param);
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn every_setting_of_targets_is_read() {
    let read = read(json!({
        "text_to_text": {"source_prefix": "translate English to French: ", "source_lang": "en_XX", "target_lang": "fr_XX",
            "max_target_length": 64, "predict_with_generate": false, "generated_rows": 0, "num_beams": 2,
            "length_penalty": 0.5, "no_repeat_ngram_size": 3, "early_stopping": true, "forced_bos_token": "fr_XX",
            "bleu_tokenizer": "intl", "rouge_stemmer": false},
    }))
    .unwrap();
    let expected = TextToText {
        source_prefix: "translate English to French: ".to_owned(),
        source_lang: Some("en_XX".to_owned()),
        target_lang: Some("fr_XX".to_owned()),
        max_target_length: Some(64),
        predict_with_generate: false,
        generated_rows: Some(0),
        num_beams: 2,
        length_penalty: 0.5,
        no_repeat_ngram_size: 3,
        early_stopping: true,
        forced_bos_token: Some("fr_XX".to_owned()),
        bleu_tokenizer: "intl".to_owned(),
        rouge_stemmer: Some(false),
    };
    assert_eq!(read.training.text_to_text, Some(expected));
    assert_eq!(hyperparameters(&Map::new(), None).unwrap().training.text_to_text, None);
    let wrong = hyperparameters(json!({"text_to_text": {"num_beans": 2}}).as_object().unwrap(), None);
    let wrong = wrong.unwrap_err();
    assert_eq!(wrong.param, "text_to_text.num_beans");
    assert!(wrong.message.contains("num_beams"), "{wrong}");
}
