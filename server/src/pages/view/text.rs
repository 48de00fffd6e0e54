//! Numbers, sizes and times as people read them.

use chrono::{DateTime, SecondsFormat, Utc};

/// A time, for a `<time>` element; the page's script keeps the words fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339, in UTC.
    pub iso: String,
    /// "3 minutes ago".
    pub ago: String,
    /// "2025-11-25 09:46:01 UTC".
    pub full: String,
    /// "09:46:01", for a log.
    pub clock: String,
}

impl Moment {
    /// The moment as seen at `now`.
    pub fn at(time: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Moment {
            iso: time.to_rfc3339_opts(SecondsFormat::Millis, true),
            ago: ago((now - time).num_seconds()),
            full: time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            clock: time.format("%H:%M:%S").to_string(),
        }
    }
}

fn ago(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..5 => return "just now".to_owned(),
        5..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// "1 h 04 min", "2 min 05 s", "8 s".
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3_600..172_800 => format!("{} h {:02} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} days {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// "1.9 GB"; units are powers of 1000, as on a disk's label.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// "9,514".
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "22.7 M", for parameters and tokens.
pub fn large(number: u64) -> String {
    match number {
        0..10_000 => count(number),
        10_000..1_000_000 => format!("{:.1} k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.2} B", number as f64 / 1e9),
    }
}

/// "1 row", "3 rows".
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A measured value to four digits that count: "0.8472", "1.234e-5", "not a number".
pub fn value(number: f64) -> String {
    if number.is_nan() {
        return "not a number".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "∞" } else { "−∞" }.to_owned();
    }
    let size = number.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        trim_exponent(&format!("{number:.3e}"))
    } else {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{number:.digits$}")
    }
}

/// A setting, as short as it can be written: "5e-5", "0.01", "3".
pub fn setting(number: f64) -> String {
    if number != 0.0 && (number.abs() < 1e-3 || number.abs() >= 1e7) {
        format!("{number:e}")
    } else {
        format!("{number}")
    }
}

/// "84.7 %".
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn trim_exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(duration(8.4), "8 s");
        assert_eq!(duration(125.0), "2 min 05 s");
        assert_eq!(duration(3_840.0), "1 h 04 min");
        assert_eq!(duration(f64::NAN), "–");
    }

    #[test]
    fn sizes_change_unit_before_four_digits_are_needed() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_900_000_000), "1.9 GB");
        assert_eq!(bytes(999_900), "1.0 MB");
        assert_eq!(bytes(83_000_000), "83 MB");
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(0), "0");
        assert_eq!(count(9_514), "9,514");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "row", "rows"), "1 row");
    }

    #[test]
    fn values_keep_four_digits_and_never_hide_what_is_not_a_number() {
        assert_eq!(value(0.847_21), "0.8472");
        assert_eq!(value(12.345_6), "12.35");
        assert_eq!(value(1.25e-5), "1.25e-5");
        assert_eq!(value(f64::NAN), "not a number");
        assert_eq!(setting(5e-5), "5e-5");
        assert_eq!(setting(0.01), "0.01");
    }
}
