//! ImageBuilder's config file: assignments of the shell, of the simple form
//! `KEY="value"` and `KEY[n]="value"`, and comments.
//!
//! ImageBuilder has a shell read the file. Nothing is expanded or run here, so
//! what is not of that form is an error: it could set any key.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};

/// What a key is set to, and where.
#[derive(Debug)]
pub struct Value {
    /// Counted from 1.
    line: usize,
    text: String,
    /// Whether a shell would see something to expand in it.
    expands: bool,
}

/// All assignments of one file. Of several to one key the last counts.
#[derive(Debug)]
pub struct Config {
    file: String,
    values: BTreeMap<String, Value>,
}

impl Config {
    /// Reads `text`; `file` is its name in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = assignment(number, line).with_context(|| {
                format!("{file}: line {number}: not of the form KEY=\"value\" or KEY[n]=\"value\"")
            })?;
            values.insert(key, value);
        }
        Ok(Self {
            file: file.to_owned(),
            values,
        })
    }

    /// What a key is set to, or `None` if it is not set or empty, which is the
    /// same to ImageBuilder. An error if only a shell could tell.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            Some(value) if value.expands => {
                Err(self.wrong(key, "nothing is expanded here, write it out"))
            }
            Some(value) if !value.text.is_empty() => Ok(Some(&value.text)),
            _ => Ok(None),
        }
    }

    /// Whether a key is set, whatever it is set to.
    pub fn is_set(&self, key: &str) -> bool {
        let value = self.values.get(key);
        value.is_some_and(|value| !value.text.is_empty())
    }

    /// A key that is a number.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match number(text) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &format!("\"{text}\" is not a number"))),
        }
    }

    /// The names of all keys that are set.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The error of a key: where it is set, and what is wrong with that.
    pub fn wrong(&self, key: &str, what: &str) -> anyhow::Error {
        let file = &self.file;
        match self.values.get(key) {
            Some(Value { line, .. }) => anyhow!("{file}: line {line}: {key}: {what}"),
            None => anyhow!("{file}: {key}: not set; {what}"),
        }
    }
}

/// A number as a shell reads it: decimal, or hexadecimal with `0x`. One that
/// begins with 0 would be octal there, and is none here.
pub fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => return None,
        None => (text, 10),
    };
    // from_str_radix() takes a sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Takes one assignment apart.
fn assignment(line: usize, text: &str) -> Result<(String, Value)> {
    let (key, rest) = text.split_once('=').context("no =")?;
    let (name, index) = match key.split_once('[') {
        Some((name, index)) => (name, index.strip_suffix(']')),
        None => (key, Some("0")),
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    ensure!(starts && goes_on, "not a name: {name}");
    ensure!(index.and_then(number).is_some(), "not an index: {key}");

    let (value, expands, behind) = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(&rest[1..], quote)?,
        _ => {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let value = &rest[..end];
            ensure!(
                !value.contains(['"', '\'', '\\', ';', '&', '|', '<', '>', '(', ')']),
                "a value that wants quotes"
            );
            (
                value,
                value.contains(['$', '`', '*', '?', '~', '{']),
                &rest[end..],
            )
        }
    };
    let comment = behind.trim_start();
    ensure!(
        comment.is_empty() || (comment.starts_with('#') && comment != behind),
        "something behind the value"
    );
    let value = Value {
        line,
        text: value.to_owned(),
        expands,
    };
    Ok((key.to_owned(), value))
}

/// The value up to the closing quote, whether a shell would expand it, and
/// what is behind the quote.
fn quoted(text: &str, quote: char) -> Result<(&str, bool, &str)> {
    let mut expands = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == quote {
            return Ok((&text[..at], expands, &text[at + 1..]));
        } else if quote == '"' {
            escaped = c == '\\';
            expands |= matches!(c, '\\' | '$' | '`');
        }
    }
    bail!("no closing quote");
}
