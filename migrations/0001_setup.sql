-- Wake-ups are part of the transaction that made the change: a listener that hears one finds the change committed.
-- `luthier_job` carries the job's id (something about the job changed, or it has new events);
-- `luthier_queue` says that there may be something to claim.

create table object (
    -- Content is its own name, so that the same bytes are stored once.
    hash text primary key check (hash ~ '^[0-9a-f]{64}$'),
    bytes bigint not null check (bytes >= 0),
    created_at timestamptz not null default now(),
    -- The last upload of this content: one that has no row yet to refer to it must not be swept.
    touched_at timestamptz not null default now()
);

create table file (
    file_id uuid primary key,
    name text not null check (name <> ''),
    purpose text not null check (purpose <> ''),
    hash text not null references object (hash),
    bytes bigint not null check (bytes >= 0),
    status text not null default 'uploaded' check (status in ('uploaded', 'processed', 'error')),
    -- The sentence that says why a file cannot be used.
    status_details text,
    -- What inspection found: format, columns, rows, problems.
    report jsonb,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    constraint file_error_says_why check (status <> 'error' or status_details is not null)
);
create index file_hash on file (hash);
create index file_expires_at on file (expires_at) where expires_at is not null;

create table agent (
    agent_id uuid primary key,
    -- A restarted agent takes up its own row, and with it what its predecessor held.
    name text not null unique check (name <> ''),
    -- For people: "cpu", "cuda: NVIDIA H100".
    device text not null,
    cuda_devices int not null default 0 check (cuda_devices >= 0),
    threads int not null default 0 check (threads >= 0),
    memory_bytes bigint check (memory_bytes >= 0),
    version text not null default '',
    -- Why it takes no jobs, if it takes none.
    unfit text,
    started_at timestamptz not null default now(),
    last_seen timestamptz not null default now()
);

create table model (
    -- A slash would have to be escaped in every address.
    model_id text primary key check (model_id ~ '^[A-Za-z0-9._:-]+$' and length(model_id) <= 320),
    kind text not null check (kind in ('base', 'tuned', 'checkpoint')),
    task text,
    architecture text,
    parameters bigint check (parameters >= 0),
    bytes bigint not null check (bytes >= 0),
    -- The model that it was tuned from; not a reference, since a base may go while its offspring stays.
    base_model text,
    -- The job that made it; set in `0002_queue.sql` as a reference.
    job_id uuid,
    step bigint check (step >= 0),
    metrics jsonb not null default '{}',
    -- What inspection found, or what the job says of it.
    report jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint model_uploaded_or_made check ((kind = 'base') or (base_model is not null))
);
create index model_created_at on model (created_at desc, model_id desc);

create table model_file (
    model_id text not null references model on delete cascade,
    -- Relative, and never up: the path is joined to a folder by whoever fetches it.
    path text not null check (path <> '' and path !~ '(^/|\\|(^|/)\.\.?(/|$)|//|/$)'),
    hash text not null references object (hash),
    bytes bigint not null check (bytes >= 0),
    primary key (model_id, path)
);
create index model_file_hash on model_file (hash);
