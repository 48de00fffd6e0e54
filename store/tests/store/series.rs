use std::time::Instant;

use store::PgPool;
use store::event::{Kind, append, roll_up, series};

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
    let mut conn = db.acquire().await.unwrap();
    roll_up(&mut conn, job, Kind::Train, 0).await.unwrap();
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

/// The sums of a curve as text, in order.
async fn sums(db: &PgPool, job: store::JobId) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', kind, first, last, points, low, high) from job_curve where job_id = $1 order by last",
    )
    .bind(job.0)
    .fetch_all(db)
    .await
    .unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn sums_kept_along_the_way_are_those_of_the_whole_curve(db: PgPool) {
    let held = running(&db).await;
    let point = |step: i64| train(1, step, step * 3, f64::from((step * 7919 % 1009) as i32));
    // The points 100 to 119 come late, behind blocks that were summed up without them.
    let order: Vec<_> = (0..100).chain(120..700).chain(100..120).chain(700..1000).map(point).collect();
    for batch in order.chunks(37) {
        append(&db, &held, batch).await.unwrap();
    }
    let along = sums(&db, held.job_id()).await;
    assert_eq!(along.len(), 1000 / 64);
    let mut conn = db.acquire().await.unwrap();
    roll_up(&mut conn, held.job_id(), Kind::Train, 0).await.unwrap();
    assert_eq!(along, sums(&db, held.job_id()).await);

    // 15 blocks and 40 points behind them, for 7 buckets.
    let points = series(&db, held.job_id(), Kind::Train, &["loss"], 28).await.unwrap();
    assert!(points.len() <= 28, "{}", points.len());
    let loss =
        |pick: fn(f64, f64) -> f64| points.iter().filter_map(|p| p.values["loss"].as_f64()).reduce(pick);
    let all = || (0..1000).map(|step: i64| f64::from((step * 7919 % 1009) as i32));
    assert_eq!((loss(f64::min), loss(f64::max)), (all().reduce(f64::min), all().reduce(f64::max)));
    assert_eq!((points[0].step, points[points.len() - 1].step), (0, 2997));
}

/// Node types of a plan, with the index or table that each reads.
fn nodes(plan: &serde_json::Value, found: &mut Vec<String>) {
    let text = |name: &str| plan[name].as_str().unwrap_or_default();
    found.push(format!("{} {}{}", text("Node Type"), text("Index Name"), text("Relation Name")));
    for part in plan["Plans"].as_array().into_iter().flatten() {
        nodes(part, found);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_curve_is_read_by_an_index_and_not_through_the_curves_of_others(db: PgPool) {
    let one = job(&db).await.job_id;
    curve(&db, one, 1000).await;
    for _ in 0..20 {
        let other = job(&db).await.job_id;
        curve(&db, other, 2000).await;
    }
    sqlx::query("analyze job_event").execute(&db).await.unwrap();
    // The same conditions as in `series`, by parameters and planned for any of their values.
    let mut conn = db.acquire().await.unwrap();
    sqlx::raw_sql(
        r#"set plan_cache_mode = force_generic_plan;
        prepare curve (uuid, text) as select min(step), max(data ->> 'loss') from job_event
        where job_id = $1 and kind = $2 and kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint')"#,
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    let explain = format!("explain (format json) execute curve ('{}', 'train')", one.0);
    let plan: serde_json::Value =
        sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_one(&mut *conn).await.unwrap();
    let mut found = Vec::new();
    nodes(&plan[0]["Plan"], &mut found);
    assert!(found.iter().any(|node| node.contains("job_event_curve")), "{found:?}");
    assert!(found.iter().all(|node| !node.starts_with("Seq Scan")), "{found:?}");
}
