//! The `lr_scheduler` of a request.

use serde_json::Value;

use crate::spec::reader::Reader;
use crate::spec::{Schedule, ScheduleName, SpecError};

/// `lr_scheduler` is a name or an object; warm-up may stand beside it, as in transformers, or in it.
pub(super) fn read(reader: &mut Reader) -> Result<Schedule, SpecError> {
    const NAMES: [(&str, ScheduleName); 4] = [
        ("constant", ScheduleName::Constant),
        ("linear", ScheduleName::Linear),
        ("cosine", ScheduleName::Cosine),
        ("polynomial", ScheduleName::Polynomial),
    ];
    let mut schedule = Schedule::default();
    let path = reader.at("lr_scheduler");
    match reader.value("lr_scheduler") {
        None => {}
        Some(Value::String(_)) => {
            schedule.name = reader.word("lr_scheduler", &NAMES)?.unwrap_or_default();
        }
        Some(Value::Object(fields)) => {
            let mut inner = Reader::new(&path, fields);
            schedule.name = inner.word("name", &NAMES)?.unwrap_or_default();
            schedule.warmup_steps = inner.whole("warmup_steps")?;
            schedule.warmup_ratio = inner.number("warmup_ratio")?;
            schedule.power = inner.number("power")?.unwrap_or(schedule.power);
            let end = inner.number("end_learning_rate")?;
            schedule.end_learning_rate = end.unwrap_or(schedule.end_learning_rate);
            schedule.cycles = inner.number("cycles")?.unwrap_or(schedule.cycles);
            inner.finish()?;
        }
        Some(other) => return Err(reader.wrong("lr_scheduler", "a name or an object with a name", other)),
    }
    if let Some(steps) = reader.whole("warmup_steps")? {
        if schedule.warmup_steps.is_some() {
            return Err(reader.error("warmup_steps", "is given twice, here and in lr_scheduler"));
        }
        schedule.warmup_steps = Some(steps);
    }
    if let Some(ratio) = reader.number("warmup_ratio")? {
        if schedule.warmup_ratio.is_some() {
            return Err(reader.error("warmup_ratio", "is given twice, here and in lr_scheduler"));
        }
        schedule.warmup_ratio = Some(ratio);
    }
    Ok(schedule)
}
