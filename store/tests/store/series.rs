use std::time::Instant;

use store::PgPool;
use store::event::{Kind, append, series};

use crate::seed::*;

/// A training curve of `steps` points, with one spike up and one down.
async fn curve(db: &PgPool, job: store::JobId, steps: i64) {
    sqlx::query(
        r#"insert into job_event (job_id, number, attempt, line, kind, step, at, "values", data)
        select $1, 1000 + s, 1, s, 'train', s, now() + s * interval '1 ms',
            jsonb_build_object('loss', case s when $2 / 3 then 99.0 when $2 / 2 then -99.0 else 1.0 / s end,
                'learning_rate', 5e-5 * (1 - s::float8 / $2), 'grad_norm', 1.0, 'epoch', s::float8 / 1000),
            jsonb_build_object('samples_per_second', 100 + s % 7)
        from generate_series(1, $2) s"#,
    )
    .bind(job.0)
    .bind(steps)
    .execute(db)
    .await
    .unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_short_curve_comes_whole(db: PgPool) {
    let held = running(&db).await;
    let lines: Vec<_> = (0..50).map(|n| train(1, n, (n + 1) * 10, n as f64)).collect();
    append(&db, &held, &lines).await.unwrap();
    let points =
        series(&db, held.job_id(), Kind::Train, &["loss", "total_steps", "absent"], 50).await.unwrap();
    assert_eq!(points.len(), 50);
    assert_eq!(points[1].step, 20);
    assert_eq!(points[1].values, serde_json::json!({"loss": 1.0, "total_steps": 100, "absent": null}));
    assert_eq!(series(&db, held.job_id(), Kind::Eval, &["loss"], 50).await.unwrap(), []);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_million_points_give_a_bounded_answer_that_keeps_the_shape(db: PgPool) {
    let job = job(&db).await.job_id;
    let other = self::job(&db).await.job_id;
    let steps = 1_000_000;
    curve(&db, job, steps).await;
    curve(&db, other, 1000).await;
    sqlx::query("analyze job_event").execute(&db).await.unwrap();
    for fields in [&["loss"][..], &["loss", "learning_rate", "grad_norm", "epoch", "samples_per_second"]] {
        let start = Instant::now();
        let points = series(&db, job, Kind::Train, fields, 2000).await.unwrap();
        eprintln!("{} points of {steps} with {} fields in {:?}", points.len(), fields.len(), start.elapsed());
        assert!(points.len() <= 2000, "{}", points.len());
        assert!(points.len() >= 300, "{}", points.len());
        assert!(points.is_sorted_by(|a, b| a.step < b.step));
        assert_eq!((points[0].step, points[points.len() - 1].step), (1, steps));
        let at =
            |step: i64| points.iter().find(|point| point.step == step).map(|point| &point.values["loss"]);
        assert_eq!(at(steps / 3).and_then(|loss| loss.as_f64()), Some(99.0), "a spike stays");
        assert_eq!(at(steps / 2).and_then(|loss| loss.as_f64()), Some(-99.0), "a dip stays");
        // No bucket is left out: gaps are not wider than two buckets.
        let buckets = 2000 / (2 + 2 * fields.len() as i64);
        let widest = points.windows(2).map(|pair| pair[1].step - pair[0].step).max().unwrap();
        assert!(widest <= 2 * steps / buckets, "{widest}");
    }
}
