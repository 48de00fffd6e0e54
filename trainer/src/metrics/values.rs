//! Metrics by name, in the order in which they were put in.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ordered map from a metric's name to its value; a JSON object, `null` where a metric is undefined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(String, Option<f64>)>);

impl Values {
    /// Puts a value in, in the place of an earlier one of the same name. What is not finite becomes `None`.
    pub fn set(&mut self, name: &str, value: Option<f64>) {
        let value = value.filter(|v| v.is_finite());
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The value of a metric; `None` when it is undefined or absent. The prefixes `eval_` and `test_` are optional.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.find(name).flatten()
    }

    /// Whether the metric is there, defined or not.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    fn find(&self, name: &str) -> Option<Option<f64>> {
        let exact = |wanted: &str| self.0.iter().find(|(key, _)| key == wanted).map(|(_, value)| *value);
        exact(name).or_else(|| exact(bare(name)))
    }
}

/// A metric's name without the split in front of it.
pub(super) fn bare(name: &str) -> &str {
    name.strip_prefix("eval_").or_else(|| name.strip_prefix("test_")).unwrap_or(name)
}

impl<N: AsRef<str>> FromIterator<(N, Option<f64>)> for Values {
    fn from_iter<I: IntoIterator<Item = (N, Option<f64>)>>(entries: I) -> Self {
        let mut values = Self::default();
        for (name, value) in entries {
            values.set(name.as_ref(), value);
        }
        values
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of metrics, each a number or null")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
                let mut values = Values::default();
                while let Some((name, value)) = map.next_entry::<String, Option<f64>>()? {
                    values.set(&name, value);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
