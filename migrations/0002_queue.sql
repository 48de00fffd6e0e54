create table job (
    job_id uuid primary key,
    name text not null default '',
    suffix text,
    task text not null,
    status text not null default 'queued'
        check (status in ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
    -- A running job is not ours to stop: this is a mark that its agent, or the reaper, obeys.
    asked text check (asked in ('pause', 'cancel')),
    phase text,
    priority int not null default 0,
    needs_device text not null default 'auto' check (needs_device in ('auto', 'cpu', 'cuda')),
    needs_devices int not null default 1 check (needs_devices > 0),

    spec jsonb not null,
    -- The body as it came, and its hash: a client that lost the answer sends the same again.
    request jsonb not null default '{}',
    request_hash text,
    manifest jsonb not null default '{}',
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),

    -- Plain ids, not references: the record of a job outlives what it used. What a live job needs is in `job_input`.
    model_id text not null,
    training_file uuid not null,
    validation_file uuid,
    test_file uuid,
    -- The name its model will have, fixed at creation because checkpoints carry it.
    output_model text not null unique,
    fine_tuned_model text references model (model_id) on delete set null,
    result_file uuid references file (file_id) on delete set null,

    -- One more with every claim: with the agent it is what fences a write.
    attempt int not null default 0 check (attempt >= 0),
    -- Attempts that ended badly by our fault; a paused or released run is none.
    failures int not null default 0 check (failures >= 0),
    max_attempts int not null default 3 check (max_attempts > 0),
    agent_id uuid references agent,
    -- Who ran it last and on what: stays when the lease is gone.
    agent_name text,
    device text,
    lease_until timestamptz,
    retry_at timestamptz,

    progress jsonb not null default '{}' check (jsonb_typeof(progress) = 'object'),
    metrics jsonb not null default '{}' check (jsonb_typeof(metrics) = 'object'),
    error jsonb,
    -- One for each attempt that ended badly.
    errors jsonb[] not null default '{}',
    trained_tokens bigint check (trained_tokens >= 0),
    steps bigint check (steps >= 0),
    best_step bigint check (best_step >= 0),

    -- Number of the newest event: numbers are given under this row's lock, so they commit in order and without gaps.
    last_event bigint not null default 0 check (last_event >= 0),
    last_event_at timestamptz,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,

    -- Nobody runs a job without a lease, and no lease outlives the run.
    constraint job_running_is_leased check (
        (status = 'running') = (agent_id is not null) and (status = 'running') = (lease_until is not null)),
    constraint job_running_has_started check (status <> 'running' or (attempt > 0 and started_at is not null)),
    constraint job_end_has_a_time check (
        (status in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
    constraint job_failed_says_why check ((status = 'failed') = (error is not null)),
    constraint job_mark_is_for_a_run check (asked is null or status = 'running'),
    constraint job_only_a_waiting_one_is_delayed check (retry_at is null or status = 'queued'),
    constraint job_attempts_are_limited check (
        failures <= max_attempts and (status not in ('queued', 'running', 'paused') or failures < max_attempts))
);
-- In the order in which jobs are claimed.
create index job_claim on job (priority desc, created_at, job_id) where status = 'queued';
create index job_lease on job (lease_until) where status = 'running';
create index job_agent on job (agent_id) where status = 'running';
create index job_request_hash on job (request_hash, created_at) where request_hash is not null;
create index job_metadata on job using gin (metadata jsonb_path_ops);

alter table model add constraint model_job_id_fkey foreign key (job_id) references job on delete set null;
create index model_job_id on model (job_id) where job_id is not null;

-- What a job reads, by content: copied at creation so that a deleted model or file cannot change a waiting job.
create table job_input (
    job_id uuid not null references job on delete cascade,
    -- Relative to the job's directory: `data/train.csv`, `model/config.json`.
    path text not null check (path <> '' and path !~ '(^/|\\|(^|/)\.\.?(/|$)|//|/$)'),
    hash text not null references object (hash),
    bytes bigint not null check (bytes >= 0),
    primary key (job_id, path)
);
create index job_input_hash on job_input (hash);

create table job_event (
    job_id uuid not null references job on delete cascade,
    number bigint not null check (number > 0),
    attempt int not null check (attempt >= 0),
    -- Line of the attempt's event file; none where the queue itself speaks.
    line bigint check (line >= 0),
    kind text not null check (kind in (
        'phase', 'log', 'train', 'eval', 'test', 'examples', 'checkpoint', 'resume', 'result')),
    step bigint check (step >= 0),
    at timestamptz not null,
    level text not null default 'info' check (level in ('info', 'warn', 'error')),
    message text not null default '',
    "values" jsonb not null default '{}' check (jsonb_typeof("values") = 'object'),
    data jsonb not null default '{}' check (jsonb_typeof(data) = 'object'),
    primary key (job_id, number),
    constraint job_event_curve_has_a_step check (
        kind not in ('train', 'eval', 'test', 'examples', 'checkpoint') or step is not null)
);
-- A step that is computed again after a restart is the same point of the curve.
create unique index job_event_curve on job_event (job_id, kind, step)
    where kind in ('train', 'eval', 'test', 'examples', 'checkpoint');
-- A line that is sent again is the same event.
create unique index job_event_line on job_event (job_id, attempt, line);

-- What 64 points of a curve in a row come to, so that a long curve is drawn without reading all of it.
create table job_curve (
    job_id uuid not null references job on delete cascade,
    kind text not null check (kind in ('train', 'eval')),
    first bigint not null,
    last bigint not null check (last >= first),
    points int not null check (points > 0),
    -- Field → value and step, of the point where it is least and of the one where it is greatest.
    low jsonb not null check (jsonb_typeof(low) = 'object'),
    high jsonb not null check (jsonb_typeof(high) = 'object'),
    primary key (job_id, kind, last)
);

create table job_checkpoint (
    checkpoint_id uuid primary key,
    job_id uuid not null references job on delete cascade,
    step bigint not null check (step >= 0),
    attempt int not null,
    best boolean not null default false,
    metrics jsonb not null default '{}' check (jsonb_typeof(metrics) = 'object'),
    bytes bigint not null check (bytes >= 0),
    -- The same weights as a model that can be used by name, until someone deletes it.
    model_id text unique references model (model_id) on delete set null,
    created_at timestamptz not null default now(),
    unique (job_id, step)
);
-- There is one best checkpoint, or none.
create unique index job_checkpoint_best on job_checkpoint (job_id) where best;

create table checkpoint_file (
    checkpoint_id uuid not null references job_checkpoint on delete cascade,
    path text not null check (path <> '' and path !~ '(^/|\\|(^|/)\.\.?(/|$)|//|/$)'),
    hash text not null references object (hash),
    bytes bigint not null check (bytes >= 0),
    primary key (checkpoint_id, path)
);
create index checkpoint_file_hash on checkpoint_file (hash);

create table idempotency_key (
    -- What is made: 'job', 'file', 'model'.
    scope text not null,
    key text not null check (key <> '' and length(key) <= 255),
    -- The same key with another request is a mistake of the client.
    request_hash text not null,
    -- Id of what was made; set in the transaction that makes it.
    resource text,
    created_at timestamptz not null default now(),
    primary key (scope, key)
);
create index idempotency_key_created_at on idempotency_key (created_at);

-- Told by the table, so that no statement can forget it. A renewed lease is no news.
create function tell_job() returns trigger language plpgsql as $$
begin
    perform pg_notify('luthier_job', new.job_id::text);
    if new.status = 'queued' and (tg_op = 'INSERT' or old.status <> 'queued') then
        perform pg_notify('luthier_queue', '');
    end if;
    return null;
end
$$;
create trigger job_created after insert on job for each row execute function tell_job();
create trigger job_changed after update on job for each row
    when ((old.status, old.asked, old.phase, old.last_event, old.last_event_at, old.priority)
        is distinct from (new.status, new.asked, new.phase, new.last_event, new.last_event_at, new.priority))
    execute function tell_job();
