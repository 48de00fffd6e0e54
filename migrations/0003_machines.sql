-- Which installation this database belongs to. The server writes the id into the object store as well, so that a trainer
-- that was given another store, or another database, is told so instead of looking for files that are not there.
create table installation (
    installation_id uuid primary key default gen_random_uuid(),
    one boolean not null unique default true check (one)
);
insert into installation default values;

alter table agent
    -- Processes that it gives a job on a CPU; on GPUs it gives `cuda_devices`.
    add column devices int not null default 1 check (devices > 0),
    -- Where the processes of others reach its own; none for an agent that only works alone.
    add column address inet,
    -- Until when it promises to look whether it was called: a job of several machines calls those that have promised.
    -- Set by a look that found no work, cleared by whatever gives it some, and -infinity once it has gone in order.
    add column idle_until timestamptz;

alter table job
    -- Where the job's processes meet, `HOST:PORT`, once the first one listens there.
    add column rendezvous text,
    -- Of a waiting job in several processes: how many are missing even if all trainers were free. Null: not looked at yet.
    add column missing_devices int check (missing_devices >= 0),
    -- Since when none is missing, so that it only waits for others to end.
    add column enough_since timestamptz;

-- What trainers beside the one that holds the job do for it. They are called all at once by the statement that claims,
-- or not at all: nobody holds anything while it waits, so two jobs cannot wait for each other.
create table job_member (
    job_id uuid not null references job on delete cascade,
    attempt int not null check (attempt > 0),
    agent_id uuid not null references agent on delete cascade,
    -- Its processes: `first_rank`, and as many as `ranks`.
    first_rank int not null check (first_rank > 0),
    ranks int not null check (ranks > 0),
    lease_until timestamptz not null,
    -- When it first said that it has come.
    joined_at timestamptz,
    -- When its processes had ended, and why, if badly.
    ended_at timestamptz,
    failure jsonb check (failure is null or ended_at is not null),
    primary key (job_id, attempt, agent_id),
    unique (job_id, attempt, first_rank)
);
create index job_member_agent on job_member (agent_id) where ended_at is null;

-- What each live trainer gives to a job of each kind. Those of one job must have the same kind of device, and reach each
-- other: one at a loopback address is reached from its own machine alone.
create view offer as
select agent.agent_id, agent.name, wanted.needs_device, agent.address,
    case when wanted.needs_device = 'cpu' or agent.cuda_devices = 0 then agent.devices else agent.cuda_devices end as devices,
    wanted.needs_device <> 'cpu' and agent.cuda_devices > 0 as cuda,
    agent.address <<= '127.0.0.0/8'::inet or agent.address = '::1'::inet as loopback,
    agent.idle_until is not null and agent.idle_until > now() as idle
from agent cross join (values ('auto'), ('cpu'), ('cuda')) as wanted (needs_device)
where agent.unfit is null and agent.last_seen > now() - interval '90 s'
    and agent.idle_until is distinct from '-infinity'
    and (wanted.needs_device <> 'cuda' or agent.cuda_devices > 0);

-- A rendezvous is what the others wait for.
drop trigger job_changed on job;
create trigger job_changed after update on job for each row
    when ((old.status, old.asked, old.phase, old.last_event, old.last_event_at, old.priority, old.rendezvous)
        is distinct from (new.status, new.asked, new.phase, new.last_event, new.last_event_at, new.priority, new.rendezvous))
    execute function tell_job();
