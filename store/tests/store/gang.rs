use store::job::{Job, Status};
use store::queue::{
    Absent, Fault, Joined, Lease, Membership, Released, Renewal, called, cancel, enqueue, fail, failures,
    leave, reap, reclaim, release, renew, renew_member, set_rendezvous, tell_missing,
};
use store::spec::Device;
use store::{AgentId, JobId, PgPool};

use crate::seed::*;

/// An idle agent that gives this many processes.
async fn idle(db: &PgPool, name: &str, devices: i32) -> AgentId {
    let agent = agent_with(db, name, devices, "10.0.0.1").await;
    assert!(claim(db, agent).await.is_none());
    agent
}

/// A job in this many processes.
async fn large(db: &PgPool, devices: u32) -> Job {
    let mut new = new_job(db).await;
    new.spec.resources.devices = devices;
    enqueue(db, &new).await.unwrap()
}

async fn messages(db: &PgPool, job: JobId) -> Vec<String> {
    store::event::since(db, job, 0, 1000).await.unwrap().into_iter().map(|event| event.message).collect()
}

async fn help(db: &PgPool, agent: AgentId) -> Option<Membership> {
    called(db, agent, LEASE).await.unwrap()
}

/// A job in two processes on the agents `one`, which holds it, and `two`.
async fn on_two(db: &PgPool) -> (Lease, Membership) {
    let (one, two) = (idle(db, "one", 1).await, idle(db, "two", 1).await);
    large(db, 2).await;
    let held = claim(db, one).await.unwrap();
    (held, help(db, two).await.unwrap())
}

async fn absent(db: &PgPool, held: &Lease) -> Option<Absent> {
    match renew(db, held, LEASE, None).await.unwrap() {
        Renewal::Held { absent, .. } => absent,
        Renewal::Lost => panic!("the lease is lost"),
    }
}

async fn lapse_member(db: &PgPool) {
    sqlx::query("update job_member set lease_until = now() - interval '1 s'").execute(db).await.unwrap();
}

/// Lets the time pass for which smaller jobs go before.
async fn lose_patience(db: &PgPool) {
    let passed = "update job set enough_since = enough_since - interval '1 hour'";
    sqlx::query(passed).execute(db).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn agents_gather_for_a_job_that_none_of_them_could_run(db: PgPool) {
    let small = idle(&db, "small", 1).await;
    let (big, other) = (idle(&db, "big", 2).await, idle(&db, "other", 2).await);
    let job = large(&db, 4).await;
    let held = claim(&db, small).await.unwrap();
    assert_eq!(held.job_id(), job.job_id);
    let told: Vec<_> =
        held.members.iter().map(|member| (member.name.as_str(), member.first_rank, member.ranks)).collect();
    assert_eq!(told, [("big", 1, 2), ("other", 3, 1)]);
    let log = messages(&db, job.job_id).await;
    assert_eq!(log.last().unwrap(), "Attempt 1 in 4 processes on small (1), big (2), other (1).");

    assert!(help(&db, small).await.is_none());
    let (first, second) = (help(&db, big).await.unwrap(), help(&db, other).await.unwrap());
    assert_eq!((first.first_rank, first.sizes.as_slice()), (1, [1, 2, 1].as_slice()));
    assert_eq!((second.first_rank, second.attempt), (3, 1));
    assert_eq!(first.files, held.files);
    let nowhere = Joined::Held { rendezvous: None };
    assert_eq!(renew_member(&db, &first, LEASE).await.unwrap(), nowhere);
    assert!(set_rendezvous(&db, &held, "10.0.0.1:4711").await.unwrap());
    let there = Joined::Held { rendezvous: Some("10.0.0.1:4711".to_owned()) };
    assert_eq!(renew_member(&db, &first, LEASE).await.unwrap(), there);
    assert_eq!(absent(&db, &held).await, None);

    enqueue(&db, &new_job(&db).await).await.unwrap();
    assert!(claim(&db, big).await.is_none(), "one that helps takes nothing else");
    for member in [&first, &second] {
        leave(&db, member, None).await.unwrap();
    }
    assert_eq!(absent(&db, &held).await, None, "a good end is no loss");
    assert!(claim(&db, big).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_job_says_what_it_lacks_and_lets_others_pass(db: PgPool) {
    let one = idle(&db, "one", 2).await;
    let job = large(&db, 5).await;
    assert_eq!(tell_missing(&db).await.unwrap(), [job.job_id]);
    assert_eq!(tell_missing(&db).await.unwrap(), [], "it is said once");
    let waits = messages(&db, job.job_id).await.pop().unwrap();
    assert!(
        waits.starts_with("Waits for 3 more devices: it needs 5, and the trainers at hand offer 2 (one 2)."),
        "{waits}"
    );
    assert_eq!(store::job::get(&db, job.job_id).await.unwrap().unwrap().missing_devices, Some(3));

    let small = enqueue(&db, &new_job(&db).await).await.unwrap();
    assert_eq!(claim(&db, one).await.unwrap().job_id(), small.job_id);
    let two = idle(&db, "two", 3).await;
    assert_eq!(tell_missing(&db).await.unwrap(), []);
    let there = messages(&db, job.job_id).await.pop().unwrap();
    assert!(there.starts_with("All 5 devices are there now (one 2, two 3)"), "{there}");
    assert!(claim(&db, two).await.is_none(), "the other is at work");
    let missing = store::job::get(&db, job.job_id).await.unwrap().unwrap().missing_devices;
    assert_eq!(missing, Some(0));
}

#[sqlx::test(migrations = "../migrations")]
async fn smaller_jobs_pass_a_large_one_only_for_a_while(db: PgPool) {
    let (one, two) = (idle(&db, "one", 1).await, idle(&db, "two", 1).await);
    enqueue(&db, &new_job(&db).await).await.unwrap();
    let busy = claim(&db, one).await.unwrap();
    let job = large(&db, 2).await;
    tell_missing(&db).await.unwrap();
    for _ in 0..2 {
        enqueue(&db, &new_job(&db).await).await.unwrap();
    }
    let passing = claim(&db, two).await.unwrap();
    assert_ne!(passing.job_id(), job.job_id);
    assert!(release(&db, &passing, Released::Cancelled).await.unwrap());

    lose_patience(&db).await;
    assert!(claim(&db, two).await.is_none(), "it keeps still for the older job");
    assert!(release(&db, &busy, Released::Cancelled).await.unwrap());
    let held = claim(&db, one).await.unwrap();
    assert_eq!((held.job_id(), held.members[0].agent), (job.job_id, two));
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_large_jobs_the_older_one_gathers_and_none_holds_a_half(db: PgPool) {
    let mut agents = Vec::new();
    for number in 0..4 {
        agents.push(idle(&db, &format!("agent {number}"), 1).await);
    }
    for round in 0..10 {
        // Each needs more than the half: with a half each they would wait for ever.
        let (older, younger) = (large(&db, 3).await, large(&db, 3).await);
        let (a, b, c, d) = tokio::join!(
            claim(&db, agents[0]),
            claim(&db, agents[1]),
            claim(&db, agents[2]),
            claim(&db, agents[3])
        );
        let claims: Vec<Lease> = [a, b, c, d].into_iter().flatten().collect();
        assert_eq!(claims.len(), 1, "round {round}");
        assert_eq!((claims[0].job_id(), claims[0].members.len()), (older.job_id, 2));
        let waiting = store::job::get(&db, younger.job_id).await.unwrap().unwrap();
        assert_eq!((waiting.status, waiting.attempt), (Status::Queued, 0));
        for member in &claims[0].members {
            leave(&db, &help(&db, member.agent).await.unwrap(), None).await.unwrap();
        }
        assert!(release(&db, &claims[0], Released::Cancelled).await.unwrap());
        cancel(&db, younger.job_id).await.unwrap();
        for agent in &agents {
            assert!(claim(&db, *agent).await.is_none());
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn only_agents_of_one_kind_that_reach_each_other_gather(db: PgPool) {
    let one = idle(&db, "one", 1).await;
    let near = agent_with(&db, "near", 1, "127.0.0.1").await;
    assert!(claim(&db, near).await.is_none());
    let about = store::agent::NewAgent {
        name: "gpu".to_owned(),
        device: "cuda".to_owned(),
        cuda_devices: 1,
        devices: 1,
        address: Some("10.0.0.2".to_owned()),
        ..Default::default()
    };
    let gpu = store::agent::register(&db, &about).await.unwrap();
    let job = large(&db, 2).await;
    for agent in [one, near, gpu] {
        assert!(claim(&db, agent).await.is_none());
    }
    tell_missing(&db).await.unwrap();
    let missing = store::job::get(&db, job.job_id).await.unwrap().unwrap().missing_devices;
    assert_eq!(missing, Some(1), "three agents, no two of which can work together");
    cancel(&db, job.job_id).await.unwrap();

    let mut new = new_job(&db).await;
    new.spec.resources = store::spec::Resources { devices: 2, device: Device::Cpu, ..new.spec.resources };
    enqueue(&db, &new).await.unwrap();
    assert_eq!(claim(&db, gpu).await.unwrap().members[0].name, "one", "all can compute on a CPU");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_member_of_an_attempt_that_is_over_changes_nothing(db: PgPool) {
    let (held, stale) = on_two(&db).await;
    lapse(&db, &held).await;
    assert_eq!(reap(&db).await.unwrap(), [held.job_id()]);
    let_retry(&db).await;
    assert_eq!(renew_member(&db, &stale, LEASE).await.unwrap(), Joined::Lost);
    assert!(help(&db, stale.agent).await.is_none());
    assert!(!set_rendezvous(&db, &held, "10.0.0.9:1").await.unwrap());

    assert!(claim(&db, stale.agent).await.is_none(), "the other has not looked for work since");
    let again = claim(&db, held.agent).await.unwrap();
    assert_eq!((again.attempt, again.members[0].agent), (2, stale.agent));
    leave(&db, &stale, Some(&failure(Fault::Internal))).await.unwrap();
    assert_eq!(failures(&db, &again).await.unwrap(), []);
    assert_eq!(absent(&db, &again).await, None);
    assert_eq!(help(&db, stale.agent).await.unwrap().attempt, 2);
    assert!(!messages(&db, held.job_id()).await.iter().any(|line| line.contains("processes on two ended")));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_holder_learns_of_a_member_that_is_gone(db: PgPool) {
    let (held, member) = on_two(&db).await;
    lapse_member(&db).await;
    let silent = Absent { name: "two".to_owned(), joined: true, said: false };
    assert_eq!(absent(&db, &held).await, Some(silent));
    assert_eq!(renew_member(&db, &member, LEASE).await.unwrap(), Joined::Held { rendezvous: None });
    assert_eq!(absent(&db, &held).await, None, "it was only late");

    leave(&db, &member, Some(&failure(Fault::Internal))).await.unwrap();
    let said = Absent { name: "two".to_owned(), joined: true, said: true };
    assert_eq!(absent(&db, &held).await, Some(said));
    let told = failures(&db, &held).await.unwrap();
    assert_eq!((told[0].0.as_str(), told[0].1.code.as_str()), ("two", "loss_not_finite"));
    let log = messages(&db, held.job_id()).await;
    assert_eq!(log.last().unwrap(), "The job's processes on two ended: The loss is not finite.");
    fail(&db, &held, &failure(Fault::Internal)).await.unwrap();
    assert_eq!(now(&db, &held).await.failures, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_restarted_member_ends_what_it_helped_with(db: PgPool) {
    let (held, member) = on_two(&db).await;
    assert_eq!(agent_with(&db, "two", 1, "10.0.0.1").await, member.agent);
    assert_eq!(reclaim(&db, member.agent).await.unwrap(), []);
    assert!(absent(&db, &held).await.is_some_and(|absent| absent.said));
    assert!(help(&db, member.agent).await.is_none());
    let log = messages(&db, held.job_id()).await.pop().unwrap();
    assert_eq!(log, "The agent two was lost: its process ended and was started again.");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_member_that_never_came_is_told_from_one_that_was_lost(db: PgPool) {
    let (one, two) = (idle(&db, "one", 1).await, idle(&db, "two", 1).await);
    large(&db, 2).await;
    let held = claim(&db, one).await.unwrap();
    lapse_member(&db).await;
    let never = Absent { name: "two".to_owned(), joined: false, said: false };
    assert_eq!(absent(&db, &held).await, Some(never));
    assert!(release(&db, &held, Released::Queued).await.unwrap());
    assert_eq!(now(&db, &held).await.failures, 0);
    assert!(help(&db, two).await.is_none(), "it comes too late");
}

#[sqlx::test(migrations = "../migrations")]
async fn cancel_and_gathering_at_once_have_one_winner(db: PgPool) {
    let (one, two) = (idle(&db, "one", 1).await, idle(&db, "two", 1).await);
    for _ in 0..20 {
        let job = large(&db, 2).await;
        let (lease, cancelled) = tokio::join!(claim(&db, one), cancel(&db, job.job_id));
        cancelled.unwrap();
        let after = store::job::get(&db, job.job_id).await.unwrap().unwrap();
        match lease {
            Some(held) => {
                assert!(after.asked.is_some(), "a running job is marked");
                let member = help(&db, two).await.unwrap();
                assert!(release(&db, &held, Released::Cancelled).await.unwrap());
                assert_eq!(renew_member(&db, &member, LEASE).await.unwrap(), Joined::Lost);
            }
            None => assert_eq!((after.status, help(&db, two).await.is_none()), (Status::Cancelled, true)),
        }
        assert!(claim(&db, one).await.is_none());
        assert!(claim(&db, two).await.is_none());
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_agent_that_goes_away_is_not_called(db: PgPool) {
    let (one, two) = (idle(&db, "one", 1).await, idle(&db, "two", 1).await);
    store::agent::away(&db, two).await.unwrap();
    let job = large(&db, 2).await;
    assert!(claim(&db, one).await.is_none());
    tell_missing(&db).await.unwrap();
    let missing = store::job::get(&db, job.job_id).await.unwrap().unwrap().missing_devices;
    assert_eq!(missing, Some(1), "it is not counted on");
    assert!(claim(&db, two).await.is_some(), "it is back");
    let agents = store::agent::list(&db).await.unwrap();
    assert_eq!((agents[0].devices, agents[0].address.as_deref()), (1, Some("10.0.0.1")));
    assert_eq!((agents[0].running, agents[1].running), (1, 1), "help is work");
}
