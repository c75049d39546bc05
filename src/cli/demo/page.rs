//! The layout of the demo: numbered steps, the actor on the left, the text on the right, at most 79 columns wide.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{
    failure::Failure,
    output::{BOLD, DIM, NAME, Out},
};

/// The width of the page, in columns.
const WIDTH: usize = 79;
/// Where the right column begins.
const INDENT: usize = 4;
/// The width of the left column.
const LEFT: usize = 17;

/// The page. With `--json` nothing is printed until the end, and then the recorded steps as one document.
pub struct Page<'a> {
    out: &'a Out,
    steps: Vec<Value>,
}

impl<'a> Page<'a> {
    pub fn new(out: &'a Out) -> Self {
        Self { out, steps: Vec::new() }
    }

    pub fn title(&self, text: &str) -> Result<(), Failure> {
        self.line(&format!("\n {BOLD}{text}{BOLD:#}\n"))
    }

    /// A paragraph.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        for line in wrapped(text, WIDTH - 1) {
            self.line(&format!(" {line}"))?;
        }
        Ok(())
    }

    /// Begins a new step.
    pub fn step(&mut self, title: &str) -> Result<(), Failure> {
        self.steps.push(json!({ "step": self.steps.len() + 1, "title": title }));
        self.line(&format!("\n {BOLD}{}. {title}{BOLD:#}\n", self.steps.len()))
    }

    /// Adds a member to the step in the JSON document.
    pub fn record(&mut self, member: &str, value: Value) {
        if let Some(step) = self.steps.last_mut() {
            step[member] = value;
        }
    }

    /// A row with an actor and a text.
    pub fn row(&self, actor: &str, text: &str) -> Result<(), Failure> {
        self.rows(actor, text, None)
    }

    /// A row with a duration on the right.
    pub fn timed(&self, actor: &str, text: &str, took: Duration) -> Result<(), Failure> {
        self.rows(actor, text, Some(format!("{:.1} ms", took.as_secs_f64() * 1e3)))
    }

    fn rows(&self, actor: &str, text: &str, aside: Option<String>) -> Result<(), Failure> {
        let aside = aside.unwrap_or_default();
        let room = WIDTH - INDENT - LEFT - if aside.is_empty() { 0 } else { aside.len() + 2 };
        for (index, line) in wrapped(text, room).iter().enumerate() {
            let (actor, aside) = if index == 0 { (actor, aside.as_str()) } else { ("", "") };
            let pad = if aside.is_empty() { 0 } else { room + 2 - line.chars().count() };
            let left = format!("{:INDENT$}{NAME}{actor:<LEFT$}{NAME:#}{line}", "");
            self.line(format!("{left}{:pad$}{DIM}{aside}{DIM:#}", "").trim_end())?;
        }
        Ok(())
    }

    /// Prints lines unchanged.
    pub fn verbatim(&self, text: &str) -> Result<(), Failure> {
        text.lines().try_for_each(|line| match line.strip_prefix('#') {
            Some(_) => self.line(&format!("{DIM}{line}{DIM:#}")),
            None => self.line(line),
        })
    }

    pub fn blank(&self) -> Result<(), Failure> {
        self.line("")
    }

    /// Prints the JSON document. `script` does the same as the demo in a shell.
    pub fn end(self, script: &str) -> Result<(), Failure> {
        if self.out.json {
            self.out.document(&json!({ "steps": self.steps, "by_hand": script }))?;
        }
        Ok(())
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        if self.out.json { Ok(()) } else { self.out.line(text) }
    }
}

/// Wraps text at `width` characters. A longer word gets a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("lines is never empty");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
