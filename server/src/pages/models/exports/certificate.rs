//! A certificate in words.

use serde_json::Value;

use crate::pages::convert::metric_name;
use crate::pages::view::export::{CertificateFact, CertificateView};
use crate::pages::view::text;

/// What a certificate says, for people.
pub fn view(told: &Value) -> CertificateView {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut metrics: Vec<[String; 4]> =
        told["metrics"].as_array().into_iter().flatten().map(metric).collect();
    let bytes = ["model", "artifact"].map(|side| told["bytes"][side].as_u64());
    metrics.push(pair("Size", bytes.map(|bytes| bytes.map(|bytes| bytes as f64)), |bytes| {
        text::bytes(bytes as u64)
    }));
    for (name, field) in [
        ("Tokens per second", "tokens_per_second"),
        ("Rows per second", "rows_per_second"),
        ("Seconds to load", "load_seconds"),
    ] {
        let both = ["model", "artifact"].map(|side| told["speed"][side][field].as_f64());
        metrics.push(pair(name, both, text::value));
    }
    let notices = told["notices"].as_array().into_iter().flatten().map(word).collect();
    let (replayed, loaded_by) = (word(&told["replayed"]["about"]), word(&told["loaded_by"]));
    let device = word(&told["speed"]["device"]);
    let threads = told["speed"]["threads"].as_u64().unwrap_or_default();
    let about = format!(
        "It was {loaded_by}, and compared with the model on {replayed}. Both computed in fp32 by Luthier's own engine on \
         {device}, one after the other on {}; another program has another speed.",
        text::plural(threads, "thread", "threads"),
    );
    CertificateView { about, metrics, facts: facts(told), notices }
}

fn metric(metric: &Value) -> [String; 4] {
    let name = metric_name(metric["name"].as_str().unwrap_or_default());
    pair(&name, [&metric["model"], &metric["artifact"]].map(Value::as_f64), text::value)
}

/// A name, both values, and the change.
fn pair(name: &str, [model, artifact]: [Option<f64>; 2], words: impl Fn(f64) -> String) -> [String; 4] {
    let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), &words);
    let change = match (model, artifact) {
        (Some(model), Some(artifact)) if model == artifact => "none".to_owned(),
        (Some(model), Some(artifact)) if model != 0.0 => signed((artifact - model) / model.abs()),
        _ => "–".to_owned(),
    };
    [name.to_owned(), shown(model), shown(artifact), change]
}

/// A change as a share of what it was.
fn signed(share: f64) -> String {
    let percent = share * 100.0;
    let sign = if percent > 0.0 { "+" } else { "−" };
    match percent.abs() {
        least if least < 0.005 => format!("{sign}{least:.1e} %"),
        some if some < 10.0 => format!("{sign}{some:.2} %"),
        much => format!("{sign}{much:.0} %"),
    }
}

fn facts(told: &Value) -> Vec<CertificateFact> {
    let logits = &told["logits"];
    let mut facts = Vec::new();
    let mut put = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| CertificateFact { name: name.to_owned(), value }));
    };
    let largest = logits["largest_difference"].as_f64().zip(logits["relative"].as_f64());
    put(
        "Largest difference of logits",
        largest.map(|(largest, relative)| {
            format!("{}, {} of their range{}", number(largest), share(relative), bound(told, "logits", share))
        }),
    );
    put(
        "Mean divergence",
        logits["mean_divergence"]
            .as_f64()
            .map(|mean| format!("{} nats{}", number(mean), bound(told, "divergence", number))),
    );
    put(
        "Same answer",
        logits["equal_share"].as_f64().map(|equal| {
            let least = bound(told, "answers", |most| share(1.0 - most));
            format!(
                "at {} of {} places{}",
                share(equal),
                text::count(places(logits)),
                least.replace("most", "least")
            )
        }),
    );
    let texts = &told["texts"];
    put(
        "Tokens",
        texts["compared"].as_u64().zip(texts["same_tokens"].as_u64()).map(|(compared, same)| {
            format!("the same for {} of {}", text::count(same), text::plural(compared, "text", "texts"))
        }),
    );
    put(
        "Chat template",
        texts["same_chat_template"]
            .as_bool()
            .map(|same| if same { "the model's" } else { "another" }.to_owned()),
    );
    facts
}

fn places(logits: &Value) -> u64 {
    logits["places"].as_u64().unwrap_or_default()
}

/// ", at most 0.1 %"; empty where the format has no such bound.
fn bound(told: &Value, name: &str, words: impl Fn(f64) -> String) -> String {
    let bounds = told["bounds"].as_array().into_iter().flatten();
    let most = bounds.filter(|bound| bound["name"] == name).find_map(|bound| bound["most"].as_f64());
    most.map(|most| format!(" (at most {})", words(most))).unwrap_or_default()
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1e-3 => format!("{value:.1e}"),
        _ => format!("{value:.4}"),
    }
}

fn share(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.05 => format!("{percent:.1e} %"),
        percent => format!("{percent:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_certificate_reads_as_a_table() {
        let told = json!({
            "loaded_by": "read from the folder as a checkpoint",
            "replayed": {"about": "all 8 rows that the training of this model held out for validation"},
            "logits": {"places": 8, "largest_difference": 2e-6, "relative": 4e-7, "mean_divergence": 0.0, "equal_share": 1.0},
            "metrics": [{"name": "loss", "model": 2.0, "artifact": 2.1}, {"name": "roc_auc", "model": null, "artifact": null}],
            "bytes": {"model": 4000, "artifact": 1000},
            "speed": {"device": "cpu", "threads": 2, "model": {}, "artifact": {}},
            "texts": {"compared": 8, "same_tokens": 8, "same_chat_template": null},
            "bounds": [{"name": "logits", "most": 1e-4}, {"name": "answers", "most": 0.02}],
            "notices": [],
        });
        let view = view(&told);
        assert_eq!(view.metrics[0], ["Loss", "2.000", "2.100", "+5.00 %"].map(str::to_owned));
        assert_eq!(view.metrics[1], ["ROC AUC", "–", "–", "–"].map(str::to_owned));
        assert_eq!(view.metrics[2][3], "−75 %");
        assert_eq!(view.facts[0].value, "2.0e-6, 4.0e-5 % of their range (at most 1.0e-2 %)");
        assert_eq!(view.facts[2].value, "at 100.0 % of 8 places (at least 98.0 %)");
        assert_eq!(view.facts.len(), 4);
    }
}
