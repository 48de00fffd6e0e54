//! A rank that is gone or stuck ends the others.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use native::c10d::{Group, Reduce, Reducer, ReducerOptions, Store};
use tch::Kind;

use crate::{LONG, RANKS, Rank, numbers, ranks, run};

fn kill_myself() -> ! {
    let _ = Command::new("sh").args(["-c", "kill -9 $PPID"]).status();
    unreachable!("killed")
}

/// Runs `test` as two ranks of which one dies; the other must end well.
fn one_dies(test: &str, victim: usize, body: impl FnOnce(&Rank)) {
    if let Some(ended) = run(test, body) {
        assert!(ended[1 - victim].success(), "{}, see above", ended[1 - victim]);
        assert_eq!(ended[victim].signal(), Some(9));
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_collective_of_the_other() {
    one_dies("failures::a_rank_that_is_killed_ends_the_collective_of_the_other", 1, |rank| {
        // The timeout is minutes: what ends the wait is the connection.
        let group = rank.group();
        group.barrier().unwrap();
        if rank.rank == 1 {
            kill_myself();
        }
        let tensor = numbers(0, &[1000, 1000]);
        let error = group.all_reduce(&tensor, Reduce::Sum).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("connection"), "{error}");
        // And whatever comes later fails at once too.
        assert!(group.barrier().is_err());
        assert!(group.recv(&tensor, 1, 0).is_err());
    });
}

#[test]
fn a_rank_that_is_killed_ends_the_backward_of_the_other() {
    one_dies("failures::a_rank_that_is_killed_ends_the_backward_of_the_other", 0, |rank| {
        let group = rank.group();
        let w = numbers(0, &[500, 500]).set_requires_grad(true);
        let mut reducer = Reducer::new(&group, &[&w], &ReducerOptions::default()).unwrap();
        reducer.prepare_for_forward().unwrap();
        let loss = w.square().sum(Kind::Float);
        if rank.rank == 0 {
            kill_myself();
        }
        let error = reducer.backward(&loss).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("connection"), "{error}");
    });
}

#[test]
fn a_rank_that_is_stuck_ends_the_other_after_the_timeout() {
    ranks("failures::a_rank_that_is_stuck_ends_the_other_after_the_timeout", |rank| {
        let store = rank.store();
        let part = store.with_prefix("group").unwrap();
        let group = Group::gloo(&part, rank.rank, RANKS, Duration::from_secs(2), "127.0.0.1").unwrap();
        if rank.rank == 0 {
            let error = group.all_reduce(&numbers(0, &[10]), Reduce::Sum).unwrap_err().to_string();
            assert!(error.to_lowercase().contains("timed out"), "{error}");
            store.set("it ended", b"").unwrap();
        } else {
            store.get("it ended").unwrap();
        }
    });
}

#[test]
fn a_rank_that_never_comes_ends_the_joining() {
    if crate::skipped("failures::a_rank_that_never_comes_ends_the_joining") {
        return;
    }
    let soon = Duration::from_millis(200);
    let store = Store::tcp_master("127.0.0.1", 0, soon).unwrap();
    assert!(Group::gloo(&store, 0, RANKS, soon, "127.0.0.1").is_err());
    let port = store.port().unwrap();
    drop(store);
    assert!(Store::tcp_client("127.0.0.1", port, soon).is_err(), "nobody serves there any more");
    assert!(
        Group::gloo(&Store::tcp_master("127.0.0.1", 0, LONG).unwrap(), 0, 1, LONG, "no such host").is_err()
    );
}
