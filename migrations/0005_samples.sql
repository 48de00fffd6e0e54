-- What a language model answers at an evaluation is a point of a curve too: one event a step, however often it is computed.
alter table job_event
    drop constraint job_event_kind_check,
    add constraint job_event_kind_check check (kind in (
        'phase', 'log', 'train', 'eval', 'test', 'examples', 'samples', 'checkpoint', 'resume', 'result')),
    drop constraint job_event_curve_has_a_step,
    add constraint job_event_curve_has_a_step check (
        kind not in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint') or step is not null);
drop index job_event_curve;
create unique index job_event_curve on job_event (job_id, kind, step)
    where kind in ('train', 'eval', 'test', 'examples', 'samples', 'checkpoint');
