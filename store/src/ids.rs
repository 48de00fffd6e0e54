//! Ids: UUID v7, so that they sort by time, each a type of its own with a prefix that says what it names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// A text that is no id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{found}\" is no {noun} id; one looks like {prefix}{example}")]
pub struct BadId {
    noun: &'static str,
    prefix: &'static str,
    example: &'static str,
    found: String,
}

const EXAMPLE: &str = "0190b5a8f3c97d3e8c1f2a4b5d6e7f80";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a new id of this moment.
            #[expect(clippy::new_without_default, reason = "each call gives another value")]
            pub fn new() -> Self {
                $name(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                text.strip_prefix($prefix)
                    .filter(|rest| rest.len() == 32)
                    .and_then(|rest| Uuid::try_parse(rest).ok())
                    .map($name)
                    .ok_or_else(|| BadId {
                        noun: $noun,
                        prefix: $prefix,
                        example: EXAMPLE,
                        found: text.chars().take(80).collect(),
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// A fine-tuning job: `ftjob-…`.
    JobId, "job", "ftjob-"
);
id!(
    /// An uploaded or produced file: `file-…`.
    FileId, "file", "file-"
);
id!(
    /// A checkpoint of a job: `ftckpt_…`.
    CheckpointId, "checkpoint", "ftckpt_"
);
id!(
    /// A process that trains: `agent-…`.
    AgentId, "agent", "agent-"
);

id!(
    /// A model in another format, `export-…`: the number of the job that makes it.
    ExportId, "export", "export-"
);

impl ExportId {
    /// What a job makes.
    pub fn of(job: JobId) -> Self {
        ExportId(job.0)
    }

    /// The job that makes it.
    pub fn job(self) -> JobId {
        JobId(self.0)
    }
}

impl JobId {
    /// The last eight digits, which are random: enough to tell a job's models apart by eye.
    pub fn short(&self) -> String {
        let hex = self.0.simple().to_string();
        hex[24..].to_owned()
    }
}

/// An event of a job, by its number: `ftevent-<job>-<number, 12 digits>`; sorts as the events do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The job.
    pub job: JobId,
    /// Its number in the job, from 1, without gaps.
    pub number: i64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ftevent-{}-{:012}", self.job.0.simple(), self.number)
    }
}

impl FromStr for EventId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let parse = || {
            let (job, number) = text.strip_prefix("ftevent-")?.split_once('-')?;
            let digits = number.len() >= 12 && number.bytes().all(|b| b.is_ascii_digit());
            let job = (job.len() == 32 && digits).then(|| Uuid::try_parse(job).ok())??;
            Some(EventId { job: JobId(job), number: number.parse().ok()? })
        };
        parse().ok_or_else(|| BadId {
            noun: "event",
            prefix: "ftevent-",
            example: "0190b5a8f3c97d3e8c1f2a4b5d6e7f80-000000000042",
            found: text.chars().take(80).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
        let event = EventId { job: id, number: 7 };
        assert!(event.to_string().ends_with("-000000000007"));
        assert_eq!(event.to_string().parse(), Ok(event));
    }

    #[test]
    fn an_id_of_another_kind_is_refused_by_name() {
        let error = FileId::new().to_string().parse::<JobId>().unwrap_err();
        assert!(error.to_string().contains("is no job id"), "{error}");
        assert!("ftjob-xyz".parse::<JobId>().is_err());
        assert!("ftevent-xyz".parse::<EventId>().is_err());
    }
}
