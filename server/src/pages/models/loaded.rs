//! What is kept loaded to answer, as the list of models shows it.

use crate::inference::Loaded;
use crate::pages::convert;
use crate::pages::view::Fact;
use crate::pages::view::model::LoadedRow;
use crate::pages::view::text;

/// A row for a worker.
pub fn loaded_row(loaded: &Loaded) -> LoadedRow {
    let link = |id: &String| Fact::linked(id.clone(), String::new(), convert::model_href(id));
    let any = loaded.models.keys().next();
    LoadedRow {
        models: loaded.models.keys().map(link).collect(),
        device: loaded.device.clone(),
        memory: loaded.memory.map(text::bytes).unwrap_or_default(),
        state: match (loaded.requests, loaded.idle) {
            (0, Some(idle)) => format!("idle for {}", text::duration(idle.as_secs_f64())),
            (requests, _) => text::plural(requests as u64, "request", "requests"),
        },
        unload: any.map(|id| format!("{}/unload", convert::model_href(id))).unwrap_or_default(),
    }
}
