//! What the store promises, on a database of its own for each test.

mod checkpoint;
mod event;
mod export;
mod gang;
mod idempotency;
mod marker;
mod notify;
mod objects;
mod queue;
mod rows;
mod s3;
mod seed;
mod series;
