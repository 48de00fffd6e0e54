use serde_json::json;
use store::agent::NewAgent;
use store::checkpoint::NewCheckpoint;
use store::event::{AppendError, append};
use store::job::{Asked, Status};
use store::queue::{
    Fault, Finished, OrderError, Outcome, Refused, Released, Renewal, cancel, enqueue, fail, finish, pause,
    reap, reclaim, release, renew, resume, set_priority,
};
use store::spec::Device;
use store::{PgPool, StoredFile};

use crate::seed::*;

#[sqlx::test(migrations = "../migrations")]
async fn of_two_agents_one_gets_the_job(db: PgPool) {
    let job = job(&db).await;
    let (one, two) = (agent(&db, "one").await, agent(&db, "two").await);
    let (first, second) = tokio::join!(claim(&db, one), claim(&db, two));
    let leases: Vec<_> = [first, second].into_iter().flatten().collect();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].job_id(), job.job_id);
    assert_eq!(leases[0].attempt, 1);
    let paths: Vec<_> = leases[0].files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["data/train.csv", "model/config.json", "model/model.safetensors"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn many_agents_share_out_many_jobs_without_overlap(db: PgPool) {
    let new = new_job(&db).await;
    for _ in 0..12 {
        enqueue(&db, &new).await.unwrap();
    }
    let mut claims = Vec::new();
    for number in 0..6 {
        let agent = agent(&db, &format!("agent {number}")).await;
        let db = db.clone();
        claims.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(lease) = claim(&db, agent).await {
                taken.push(lease.job_id());
            }
            taken
        }));
    }
    let mut taken = Vec::new();
    for task in claims {
        taken.extend(task.await.unwrap());
    }
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 12);
}

#[sqlx::test(migrations = "../migrations")]
async fn priority_comes_before_age(db: PgPool) {
    let mut new = new_job(&db).await;
    let old = enqueue(&db, &new).await.unwrap();
    let older_than = enqueue(&db, &new).await.unwrap();
    new.priority = 5;
    let urgent = enqueue(&db, &new).await.unwrap();
    assert_eq!(store::queue::position(&db, old.job_id).await.unwrap(), Some(1));
    assert!(set_priority(&db, older_than.job_id, 9).await.unwrap());
    let one = agent(&db, "one").await;
    let mut order = Vec::new();
    while let Some(lease) = claim(&db, one).await {
        order.push(lease.job_id());
    }
    assert_eq!(order, [older_than.job_id, urgent.job_id, old.job_id]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_for_cuda_waits_for_an_agent_with_cuda(db: PgPool) {
    let mut new = new_job(&db).await;
    new.spec.resources.device = Device::Cuda;
    enqueue(&db, &new).await.unwrap();
    let one = agent(&db, "one").await;
    assert!(claim(&db, one).await.is_none());
    let about = NewAgent { name: "two".to_owned(), cuda_devices: 1, ..NewAgent::default() };
    let two = store::agent::register(&db, &about).await.unwrap();
    assert!(claim(&db, two).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_finished_job_has_its_model_and_results(db: PgPool) {
    let held = running(&db).await;
    let content = object(&db, "step,loss").await;
    let end = Finished {
        files: vec![stored_file(&db, "model.safetensors", "tuned").await],
        result_file: Some(store::queue::ResultFile { name: "metrics.csv".to_owned(), content }),
        metrics: json!({"accuracy": 0.9}),
        steps: Some(100),
        best_step: Some(90),
        trained_tokens: Some(1234),
        ..Finished::default()
    };
    assert!(finish(&db, &held, &end).await.unwrap());
    let job = now(&db, &held).await;
    assert_eq!(job.status, Status::Succeeded);
    assert_eq!(job.fine_tuned_model.as_deref(), Some(job.output_model.as_str()));
    assert_eq!(job.agent_id, None);
    assert_eq!(job.agent_name.as_deref(), Some("one"));
    let model = store::model::get(&db, &job.output_model).await.unwrap().unwrap();
    assert_eq!((model.job_id, model.step, model.bytes), (Some(job.job_id), Some(90), 5));
    let results = store::file::get(&db, job.result_file.unwrap()).await.unwrap().unwrap();
    assert_eq!(results.purpose, "fine-tune-results");
    assert!(!finish(&db, &held, &end).await.unwrap(), "a second time is too late");
}

/// Everything an agent can write, tried with a lease that is lost.
async fn writes_nothing(db: &PgPool, stale: &store::queue::Lease) {
    let before = now(db, stale).await;
    let checkpoint = NewCheckpoint {
        step: 7,
        files: Vec::<StoredFile>::new(),
        metrics: json!({}),
        best: true,
        keep: 2,
        architecture: None,
        parameters: None,
    };
    assert_eq!(renew(db, stale, LEASE, Some("training")).await.unwrap(), Renewal::Lost);
    assert!(matches!(append(db, stale, &[train(1, 0, 1, 0.5)]).await, Err(AppendError::Lost)));
    let committed = store::checkpoint::commit(db, stale, &checkpoint, &[train(1, 0, 7, 0.5)]).await;
    assert!(matches!(committed, Err(AppendError::Lost)));
    assert_eq!(fail(db, stale, &failure(Fault::User)).await.unwrap(), Outcome::Lost);
    for as_ in [Released::Paused, Released::Queued, Released::Cancelled] {
        assert!(!release(db, stale, as_).await.unwrap());
    }
    assert!(!finish(db, stale, &Finished::default()).await.unwrap());
    let after = now(db, stale).await;
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(store::checkpoint::latest(db, stale.job_id()).await.unwrap().map(|found| found.step), None);
    assert!(store::model::get(db, &after.output_model).await.unwrap().is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stale_agent_cannot_write_anything(db: PgPool) {
    let stale = running(&db).await;
    lapse(&db, &stale).await;
    assert_eq!(reap(&db).await.unwrap(), [stale.job_id()]);
    writes_nothing(&db, &stale).await;

    let two = agent(&db, "two").await;
    let second = claim(&db, two).await.unwrap();
    assert_eq!(second.attempt, 2);
    writes_nothing(&db, &stale).await;
    assert_eq!(renew(&db, &second, LEASE, None).await.unwrap(), Renewal::Held { asked: None, absent: None });
}

#[sqlx::test(migrations = "../migrations")]
async fn the_same_agent_with_an_older_attempt_is_stale_too(db: PgPool) {
    let stale = running(&db).await;
    assert!(release(&db, &stale, Released::Queued).await.unwrap());
    let again = claim(&db, stale.agent).await.unwrap();
    assert_eq!((again.agent, again.attempt), (stale.agent, 2));
    writes_nothing(&db, &stale).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_lease_that_is_renewed_is_not_reaped(db: PgPool) {
    let held = running(&db).await;
    lapse(&db, &held).await;
    assert_eq!(
        renew(&db, &held, LEASE, Some("training")).await.unwrap(),
        Renewal::Held { asked: None, absent: None }
    );
    assert_eq!(reap(&db).await.unwrap(), []);
    let job = now(&db, &held).await;
    assert_eq!((job.attempt, job.failures, job.phase.as_deref()), (1, 0, Some("training")));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_by_a_mark(db: PgPool) {
    let waiting = job(&db).await;
    assert_eq!(cancel(&db, waiting.job_id).await.unwrap().status, Status::Cancelled);
    assert_eq!(cancel(&db, waiting.job_id).await.unwrap().status, Status::Cancelled, "twice is once");

    let held = running(&db).await;
    let job = cancel(&db, held.job_id()).await.unwrap();
    assert_eq!((job.status, job.asked), (Status::Running, Some(Asked::Cancel)));
    assert_eq!(cancel(&db, held.job_id()).await.unwrap().last_event, job.last_event, "twice is once");
    assert_eq!(
        renew(&db, &held, LEASE, None).await.unwrap(),
        Renewal::Held { asked: Some(Asked::Cancel), absent: None }
    );
    assert!(release(&db, &held, Released::Cancelled).await.unwrap());
    assert_eq!(now(&db, &held).await.status, Status::Cancelled);
}

#[sqlx::test(migrations = "../migrations")]
async fn cancel_and_claim_at_once_leave_no_job_that_runs_unmarked(db: PgPool) {
    let new = new_job(&db).await;
    let one = agent(&db, "one").await;
    for _ in 0..20 {
        let job = enqueue(&db, &new).await.unwrap();
        let (lease, cancelled) = tokio::join!(claim(&db, one), cancel(&db, job.job_id));
        cancelled.unwrap();
        let after = store::job::get(&db, job.job_id).await.unwrap().unwrap();
        match lease {
            Some(held) => {
                assert_eq!((after.status, after.asked), (Status::Running, Some(Asked::Cancel)));
                assert!(release(&db, &held, Released::Cancelled).await.unwrap());
            }
            None => assert_eq!(after.status, Status::Cancelled),
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn cancel_and_finish_at_once_have_one_winner(db: PgPool) {
    let new = new_job(&db).await;
    let one = agent(&db, "one").await;
    for _ in 0..20 {
        enqueue(&db, &new).await.unwrap();
        let held = claim(&db, one).await.unwrap();
        let end = Finished::default();
        let (finished, cancelled) = tokio::join!(finish(&db, &held, &end), cancel(&db, held.job_id()));
        assert!(finished.unwrap(), "a mark does not take the lease away");
        match cancelled {
            Ok(job) => assert_eq!(job.asked, Some(Asked::Cancel)),
            Err(OrderError::Refused(Refused::Ended(Status::Succeeded))) => {}
            Err(error) => panic!("{error}"),
        }
        let after = now(&db, &held).await;
        assert_eq!((after.status, after.asked), (Status::Succeeded, None));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cancelled_job_that_fails_is_cancelled_and_not_tried_again(db: PgPool) {
    let held = running(&db).await;
    cancel(&db, held.job_id()).await.unwrap();
    assert_eq!(fail(&db, &held, &failure(Fault::Internal)).await.unwrap(), Outcome::Final);
    let job = now(&db, &held).await;
    assert_eq!((job.status, job.error), (Status::Cancelled, None));
    assert_eq!(job.errors.len(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn pause_and_resume_use_up_no_attempt(db: PgPool) {
    let held = running(&db).await;
    assert_eq!(pause(&db, held.job_id()).await.unwrap().asked, Some(Asked::Pause));
    assert!(release(&db, &held, Released::Paused).await.unwrap());
    let paused = now(&db, &held).await;
    assert_eq!((paused.status, paused.failures), (Status::Paused, 0));
    assert_eq!(pause(&db, held.job_id()).await.unwrap().status, Status::Paused, "twice is once");
    assert!(claim(&db, held.agent).await.is_none(), "a paused job is not claimed");

    assert_eq!(resume(&db, held.job_id()).await.unwrap().status, Status::Queued);
    assert_eq!(resume(&db, held.job_id()).await.unwrap().status, Status::Queued, "twice is once");
    for _ in 0..5 {
        let again = claim(&db, held.agent).await.unwrap();
        assert!(release(&db, &again, Released::Queued).await.unwrap());
    }
    assert_eq!(now(&db, &held).await.failures, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_pause_that_was_withdrawn_leaves_the_job_queued(db: PgPool) {
    let held = running(&db).await;
    pause(&db, held.job_id()).await.unwrap();
    resume(&db, held.job_id()).await.unwrap();
    assert!(release(&db, &held, Released::Paused).await.unwrap());
    assert_eq!(now(&db, &held).await.status, Status::Queued);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cancel_after_a_pause_wins(db: PgPool) {
    let held = running(&db).await;
    pause(&db, held.job_id()).await.unwrap();
    cancel(&db, held.job_id()).await.unwrap();
    assert!(matches!(pause(&db, held.job_id()).await, Err(OrderError::Refused(Refused::Cancelling))));
    assert!(matches!(resume(&db, held.job_id()).await, Err(OrderError::Refused(Refused::Cancelling))));
    assert!(release(&db, &held, Released::Paused).await.unwrap());
    assert_eq!(now(&db, &held).await.status, Status::Cancelled);
    let error = resume(&db, held.job_id()).await.unwrap_err();
    assert_eq!(error.to_string(), "the job has already been cancelled");
}

#[sqlx::test(migrations = "../migrations")]
async fn reaping_twice_takes_a_job_once(db: PgPool) {
    let held = running(&db).await;
    lapse(&db, &held).await;
    let (first, second) = tokio::join!(reap(&db), reap(&db));
    let both = [first.unwrap(), second.unwrap()].concat();
    assert_eq!(both, [held.job_id()]);
    assert_eq!(reap(&db).await.unwrap(), []);
    let job = now(&db, &held).await;
    assert_eq!((job.status, job.failures, job.retry_at), (Status::Queued, 1, None));
    assert_eq!(job.errors[0]["code"], "agent_lost");
    assert_eq!(job.errors[0]["agent"], "one");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_reaper_obeys_the_marks(db: PgPool) {
    let one = running(&db).await;
    cancel(&db, one.job_id()).await.unwrap();
    let two = running(&db).await;
    pause(&db, two.job_id()).await.unwrap();
    lapse(&db, &one).await;
    lapse(&db, &two).await;
    assert_eq!(reap(&db).await.unwrap().len(), 2);
    assert_eq!(now(&db, &one).await.status, Status::Cancelled);
    assert_eq!(now(&db, &two).await.status, Status::Paused);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_restarted_agent_gives_back_what_it_held(db: PgPool) {
    let held = running(&db).await;
    let other = agent(&db, "two").await;
    assert_eq!(reclaim(&db, other).await.unwrap(), []);
    let same = agent(&db, "one").await;
    assert_eq!(same, held.agent);
    assert_eq!(reclaim(&db, same).await.unwrap(), [held.job_id()]);
    assert_eq!(renew(&db, &held, LEASE, None).await.unwrap(), Renewal::Lost);
    assert_eq!(claim(&db, same).await.unwrap().attempt, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_users_fault_is_final(db: PgPool) {
    let held = running(&db).await;
    assert_eq!(fail(&db, &held, &failure(Fault::User)).await.unwrap(), Outcome::Final);
    let job = now(&db, &held).await;
    assert_eq!((job.status, job.failures), (Status::Failed, 0));
    let error = job.error.unwrap();
    assert_eq!(
        (&error["code"], &error["step"], &error["attempt"]),
        (&json!("loss_not_finite"), &json!(7), &json!(1))
    );
    assert_eq!(error["log"], json!(["last line"]));
    assert_eq!(error.get("fault"), None);
    assert!(matches!(
        cancel(&db, held.job_id()).await,
        Err(OrderError::Refused(Refused::Ended(Status::Failed)))
    ));
}

#[sqlx::test(migrations = "../migrations")]
async fn retries_end_at_the_last_attempt(db: PgPool) {
    job(&db).await;
    let one = agent(&db, "one").await;
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        let held = claim(&db, one).await.unwrap();
        assert_eq!(held.attempt, attempt);
        let outcome = fail(&db, &held, &failure(Fault::Internal)).await.unwrap();
        let job = now(&db, &held).await;
        assert_eq!((job.failures, job.errors.len() as i32), (attempt, attempt));
        if attempt < 3 {
            assert_eq!((outcome, job.status), (Outcome::Retried, Status::Queued));
            pauses.push((job.retry_at.unwrap() - chrono::Utc::now()).num_milliseconds());
            assert!(claim(&db, one).await.is_none(), "not before its pause is over");
            let_retry(&db).await;
        } else {
            assert_eq!((outcome, job.status), (Outcome::Final, Status::Failed));
            assert_eq!(job.error.unwrap()["attempt"], 3);
        }
    }
    assert!(pauses[0] < pauses[1], "{pauses:?}");
    assert!(claim(&db, one).await.is_none());
}

#[sqlx::test(migrations = "../migrations")]
async fn lost_agents_end_at_the_last_attempt_too(db: PgPool) {
    let id = job(&db).await.job_id;
    let one = agent(&db, "one").await;
    while let Some(held) = claim(&db, one).await {
        lapse(&db, &held).await;
        reap(&db).await.unwrap();
    }
    let job = store::job::get(&db, id).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempt, job.failures), (Status::Failed, 3, 3));
    let error = job.error.unwrap();
    assert_eq!(error["code"], "agent_lost");
    assert!(error["message"].as_str().unwrap().contains("The agent one was lost"));
}

#[sqlx::test(migrations = "../migrations")]
async fn every_turn_of_a_job_is_in_its_log(db: PgPool) {
    let mut new = new_job(&db).await;
    new.notes.push("Chosen automatically: n_epochs = 3.".to_owned());
    let id = enqueue(&db, &new).await.unwrap().job_id;
    let one = agent(&db, "one").await;
    let held = claim(&db, one).await.unwrap();
    fail(&db, &held, &failure(Fault::Internal)).await.unwrap();
    pause(&db, id).await.unwrap();
    resume(&db, id).await.unwrap();
    cancel(&db, id).await.unwrap();
    let events = store::event::since(&db, id, 0, 100).await.unwrap();
    let messages: Vec<_> = events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "The job is queued.",
            "Chosen automatically: n_epochs = 3.",
            "Attempt 1 on one.",
            "Attempt 1 ended: The loss is not finite. It is tried again; attempts left: 2.",
            "The job is paused.",
            "The job is queued again.",
            "The job is cancelled.",
        ]
    );
    let numbers: Vec<_> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_table_refuses_what_no_job_can_be(db: PgPool) {
    let held = running(&db).await;
    for (law, statement) in [
        ("job_running_is_leased", "update job set agent_id = null"),
        ("job_running_is_leased", "update job set lease_until = null"),
        ("job_end_has_a_time", "update job set finished_at = now()"),
        ("job_failed_says_why", "update job set error = '{}'"),
        ("job_only_a_waiting_one_is_delayed", "update job set retry_at = now()"),
        ("job_attempts_are_limited", "update job set failures = 3"),
        ("job_running_has_started", "update job set attempt = 0"),
    ] {
        let error = sqlx::query(statement).execute(&db).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().constraint(), Some(law), "{statement}");
    }
    release(&db, &held, Released::Queued).await.unwrap();
    let error = sqlx::query("update job set asked = 'pause'").execute(&db).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("job_mark_is_for_a_run"));
}

#[sqlx::test(migrations = "../migrations")]
async fn stats_count_by_state(db: PgPool) {
    running(&db).await;
    job(&db).await;
    let stats = store::queue::stats(&db).await.unwrap();
    assert_eq!((stats.running, stats.queued, stats.failed), (1, 1, 0));
    assert!(stats.oldest_queued_seconds >= 0.0);
}
