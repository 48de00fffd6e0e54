//! The estimate of a job's memory against what the kernel counts.

use std::process::Command;

use crate::common::{Job, json_of, make_bert};
use luthier_trainer::job::plan::Plan;
use serde_json::{Value, json};

/// How far an estimate may be off.
const TOLERANCE: f64 = 0.15;

/// A job on a model of 4 layers of width 256, made here, and rows of about 90 tokens.
fn moderate(training: Value) -> Job {
    let mut all = json!({"max_steps": 6, "batch_size": 32, "eval_every": {"steps": 100}});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::new("bert", all);
    let mut config = json_of(job.path("model/config.json"));
    let sizes = [
        ("num_hidden_layers", 4),
        ("hidden_size", 256),
        ("intermediate_size", 1024),
        ("num_attention_heads", 4),
        ("vocab_size", 8000),
        ("max_position_embeddings", 512),
    ];
    for (name, size) in sizes {
        config[name] = json!(size);
    }
    make_bert(&job.path("model"), &config);
    let row = |n: usize| {
        let label = if n.is_multiple_of(2) { "positive" } else { "negative" };
        format!("{}{label},{label}\n", "the film and the plot ".repeat(12 + n % 9))
    };
    job.write("data/train.csv", &format!("text,label\n{}", (0..200).map(row).collect::<String>()));
    job
}

/// The most memory that a process of its own had resident, and what was planned.
fn measured(job: &Job) -> (f64, Plan) {
    // The shell tells `VmHWM` of a child as `ru_maxrss`; Python has it in its library.
    let script = "import resource, subprocess, sys\n\
                  done = subprocess.run(sys.argv[1:], capture_output=True)\n\
                  sys.stderr.buffer.write(done.stderr)\n\
                  print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
                  sys.exit(done.returncode)";
    let ran = Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_luthier-trainer"), "job"])
        .arg(job.dir.path())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let kib: f64 = String::from_utf8_lossy(&ran.stdout).trim().parse().unwrap();
    (kib * 1024.0, Plan::read(&job.path("out")).expect("the job notes its plan"))
}

#[test]
fn estimates_lie_within_15_percent_of_what_is_measured() {
    let settings = [
        json!({"precision": "fp32"}),
        json!({"precision": "fp32", "gradient_checkpointing": true, "optimizer": {"name": "sgd"}}),
    ];
    let mut wrong = Vec::new();
    for training in settings {
        let job = moderate(training.clone());
        let (most, plan) = measured(&job);
        let planned = plan.estimate.peak as f64;
        let off = planned / most - 1.0;
        println!("{training}: estimated {:.0} MB, measured {:.0} MB", planned / 1e6, most / 1e6);
        if off.abs() > TOLERANCE {
            wrong.push(format!("{training}: {:+.1} %: {:#?}", 100.0 * off, plan.estimate));
        }
        assert!(plan.estimate.activations > 10_000_000, "too little to tell: {:?}", plan.estimate);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
