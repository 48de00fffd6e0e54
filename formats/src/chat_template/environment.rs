//! minijinja, set up as transformers sets up Jinja.

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, FormatStyle, Value};

use super::{budget, methods, prepare, python};

/// The characters that stand around what the assistant says until the text is done. Unicode keeps them for use inside a program.
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];
/// The name that the template has in minijinja.
pub(super) const NAME: &str = "chat";
/// More nested calls than any template makes, and few enough for a thread's stack.
const MAX_RECURSION: usize = 200;

/// What a template said through `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment that knows one template.
pub(super) fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_debug(false);
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        let written = python::text(value)?;
        budget::charge(written.len())?;
        out.write_str(&written).map_err(Error::from)
    });
    add_filters(&mut environment);
    add_tests(&mut environment);
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let message = python::text(&message)?;
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment
        .add_function(prepare::CHARGE, |bytes: usize| budget::charge(bytes).map(|()| Value::UNDEFINED));
    environment.remove_global("debug");
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

/// `strftime_now` at one time.
pub(super) fn strftime(now: NaiveDateTime) -> Value {
    Value::from_function(move |format: &str| -> Result<String, Error> {
        let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
        if items.contains(&Item::Error) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("the date format `{format}` is not known"),
            ));
        }
        let mut out = String::new();
        let written =
            std::fmt::Write::write_fmt(&mut out, format_args!("{}", now.format_with_items(items.iter())));
        written.map_err(|_| {
            Error::new(ErrorKind::InvalidOperation, format!("the date format `{format}` cannot be written"))
        })?;
        Ok(out)
    })
}

/// What a value holds, in bytes.
fn size(value: &Value) -> usize {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            value.len().unwrap_or(0).saturating_mul(size_of::<Value>())
        }
        _ => 0,
    }
}

/// Refuses what is nested more deeply than any message.
fn bound_depth(value: &Value, depth: usize) -> Result<(), Error> {
    // As much as looking takes, not what is kept: a template may keep the rest of the conversation at each message of it.
    budget::charge(3)?;
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && (!matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) || value.len().is_none()) {
        return Ok(());
    }
    if depth > python::MAX_DEPTH {
        return Err(python::too_deep());
    }
    for item in value.try_iter()? {
        let item = if is_map { value.get_item(&item)? } else { item };
        bound_depth(&item, depth + 1)?;
    }
    Ok(())
}

fn add_filters(environment: &mut Environment<'static>) {
    environment.add_filter(prepare::GENERATION, |text: &str| format!("{}{text}{}", MARKS[0], MARKS[1]));
    environment.add_filter(prepare::TEXT, |value: &Value| -> Result<Value, Error> {
        let written = python::text(value)?;
        budget::charge(written.len())?;
        Ok(Value::from(written))
    });
    environment.add_filter(prepare::BOUNDED, |value: Value| budget::charge(size(&value)).map(|()| value));
    environment.add_filter(prepare::FACTOR, |value: Value| -> Result<Value, Error> {
        if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            return Err(Error::new(ErrorKind::InvalidOperation, "a list cannot be multiplied"));
        }
        budget::charge(size(&value)).map(|()| value)
    });
    environment.add_filter(prepare::KEPT, |value: Value| -> Result<Value, Error> {
        // A slice of a slice of a slice … asks each of them for every item.
        let value = match value.kind() {
            ValueKind::Iterable => value.try_iter()?.collect(),
            _ => value,
        };
        bound_depth(&value, 0).map(|()| value)
    });
    // These take a size in memory for an argument.
    environment.remove_filter("batch");
    environment.remove_filter("slice");
    environment.add_filter("format", |value: &str, args: Rest<Value>| {
        methods::format(FormatStyle::Printf, value, &args)
    });
    environment.add_filter("tojson", |value: &Value, kwargs: Kwargs| {
        python::tojson(value, kwargs).map(Value::from_safe_string)
    });
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("join", |value: &Value, separator: Option<&str>, kwargs: Kwargs| {
        let parts: Option<String> = kwargs.get("attribute")?;
        kwargs.assert_all_used()?;
        let items = match parts {
            Some(attribute) => {
                let items = value.try_iter()?.map(|item| item.get_attr(&attribute));
                Value::from(items.collect::<Result<Vec<Value>, Error>>()?)
            }
            None => value.clone(),
        };
        methods::join(separator.unwrap_or_default(), &items)
    });
    environment.add_filter("replace", |value: &Value, old: &str, new: &str, count: Option<i64>| {
        methods::replace(&python::text(value)?, old, new, count)
    });
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| -> Result<String, Error> {
        Ok(methods::strip(&python::text(value)?, characters, true, true).to_owned())
    });
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| -> Result<usize, Error> {
            if value.is_undefined() {
                return Ok(0);
            }
            value.len().ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("a value of type {} has no length", value.kind()),
                )
            })
        });
    }
    environment.add_filter("title", |value: &Value| python::text(value).map(|text| title(&text)));
    environment
        .add_filter("int", |value: &Value, default: Option<i64>| whole_number(value, default.unwrap_or(0)));
    environment.add_filter("float", |value: &Value, default: Option<f64>| -> Result<f64, Error> {
        let written = python::text(value)?;
        Ok(written
            .trim()
            .parse()
            .ok()
            .or(f64::try_from(value.clone()).ok())
            .unwrap_or(default.unwrap_or(0.0)))
    });
    environment.add_filter(
        "indent",
        |value: &Value, width: Option<&Value>, rest: Rest<Value>, kwargs: Kwargs| {
            indent(&python::text(value)?, width, &rest, &kwargs)
        },
    );
}

/// Jinja's own idea of words: they begin after a blank, a hyphen or an opening bracket.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for character in text.chars() {
        if begins {
            out.extend(character.to_uppercase());
        } else {
            out.extend(character.to_lowercase());
        }
        begins = methods::is_blank(character) || matches!(character, '-' | '(' | '{' | '[' | '<');
    }
    out
}

fn whole_number(value: &Value, default: i64) -> Result<Value, Error> {
    if value.is_integer() {
        return Ok(value.clone());
    }
    let text = python::text(value)?;
    let number = text.trim().parse::<i64>().ok().or_else(|| {
        let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite())?;
        Some(number as i64)
    });
    Ok(Value::from(match value.kind() {
        ValueKind::Bool => i64::from(value.is_true()),
        _ => number.unwrap_or(default),
    }))
}

fn indent(text: &str, width: Option<&Value>, rest: &[Value], kwargs: &Kwargs) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width.clone()),
        None => kwargs.get("width")?,
    };
    let flag = |at: usize, name: &str| -> Result<bool, Error> {
        match rest.get(at) {
            Some(flag) => Ok(flag.is_true()),
            None => Ok(kwargs.get::<Option<bool>>(name)?.unwrap_or(false)),
        }
    };
    let (first, blank) = (flag(0, "first")?, flag(1, "blank")?);
    kwargs.assert_all_used()?;
    let by = match width {
        Some(width) if width.as_str().is_some() => width.as_str().unwrap_or_default().to_owned(),
        Some(width) => " ".repeat(width.as_usize().unwrap_or(4).min(1024)),
        None => " ".repeat(4),
    };
    let lines = text.split('\n').count();
    budget::charge(text.len().saturating_add(lines.saturating_mul(by.len())))?;
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        out.push_str(if at > 0 { "\n" } else { "" });
        if at == 0 && first || at > 0 && (blank || !line.is_empty()) {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Tests that Python answers in another way than minijinja: a text and a dictionary are sequences, a truth value is a number.
fn add_tests(environment: &mut Environment<'static>) {
    fn many(value: &Value) -> bool {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    }
    environment.add_test("sequence", |value: &Value| many(value) || value.is_undefined());
    environment.add_test("iterable", |value: &Value| many(value) || value.is_undefined());
    environment
        .add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}
