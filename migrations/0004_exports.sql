-- A job is work for a trainer: a fine-tune, or an export of a model. Queue, leases, events and orders are the same for all.
alter table job
    add column kind text not null default 'train' check (kind in ('train', 'export')),
    -- Only training learns from rows; other kinds of work may read none.
    alter column training_file drop not null,
    add constraint job_training_has_rows check (kind <> 'train' or training_file is not null);

-- What an export makes. It has its job's number: one is nothing without the other.
create table export (
    export_id uuid primary key references job on delete cascade,
    -- What is exported; an export goes with its model.
    model_id text not null references model on delete cascade,
    format text not null check (format in ('safetensors', 'adapter', 'gguf')),
    -- How numbers are kept; an adapter's stay what they are.
    number_kind text check ((number_kind is null) = (format = 'adapter')),
    bytes bigint check (bytes >= 0),
    -- What came of loading the artefact again and comparing it with the model.
    certificate jsonb check (jsonb_typeof(certificate) = 'object'),
    -- Whether all of that lies within the format's bounds.
    ready boolean,
    constraint export_is_judged_when_made check (
        (certificate is null) = (ready is null) and (certificate is null) = (bytes is null))
);
create index export_model_id on export (model_id);

create table export_file (
    export_id uuid not null references export on delete cascade,
    path text not null check (path <> '' and path !~ '(^/|\\|(^|/)\.\.?(/|$)|//|/$)'),
    hash text not null references object (hash),
    bytes bigint not null check (bytes >= 0),
    primary key (export_id, path)
);
create index export_file_hash on export_file (hash);

-- Whatever removes an export, be it its model's end, removes the job behind it; an agent at work on it loses its lease.
create function drop_export_job() returns trigger language plpgsql as $$
begin
    delete from job where job_id = old.export_id;
    return null;
end
$$;
create trigger export_dropped after delete on export for each row execute function drop_export_job();
