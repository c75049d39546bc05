//! How the demo looks: numbered steps, who on the left, what on the right, nothing wider than 80 columns.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{
    failure::Failure,
    output::{BOLD, DIM, NAME, Out},
};

const WIDTH: usize = 79;
/// Where the right column begins.
const INDENT: usize = 4;
const LEFT: usize = 17;

/// The page; a program gets its content at the end, as one document.
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

    /// A new step, with its title.
    pub fn step(&mut self, title: &str) -> Result<(), Failure> {
        self.steps.push(json!({ "step": self.steps.len() + 1, "title": title }));
        self.line(&format!("\n {BOLD}{}. {title}{BOLD:#}\n", self.steps.len()))
    }

    /// What the step is for programs.
    pub fn record(&mut self, member: &str, value: Value) {
        if let Some(step) = self.steps.last_mut() {
            step[member] = value;
        }
    }

    /// Who, and what it does.
    pub fn row(&self, who: &str, text: &str) -> Result<(), Failure> {
        self.rows(who, text, None)
    }

    /// What a token does, and how long it took.
    pub fn timed(&self, who: &str, text: &str, took: Duration) -> Result<(), Failure> {
        self.rows(who, text, Some(format!("{:.1} ms", took.as_secs_f64() * 1e3)))
    }

    fn rows(&self, who: &str, text: &str, aside: Option<String>) -> Result<(), Failure> {
        let aside = aside.unwrap_or_default();
        let room = WIDTH - INDENT - LEFT - if aside.is_empty() { 0 } else { aside.len() + 2 };
        for (index, line) in wrapped(text, room).iter().enumerate() {
            let (who, aside) = if index == 0 { (who, aside.as_str()) } else { ("", "") };
            let pad = if aside.is_empty() { 0 } else { room + 2 - line.chars().count() };
            let left = format!("{:INDENT$}{NAME}{who:<LEFT$}{NAME:#}{line}", "");
            self.line(format!("{left}{:pad$}{DIM}{aside}{DIM:#}", "").trim_end())?;
        }
        Ok(())
    }

    /// Lines that stay as they are.
    pub fn verbatim(&self, text: &str) -> Result<(), Failure> {
        text.lines().try_for_each(|line| match line.strip_prefix('#') {
            Some(_) => self.line(&format!("{DIM}{line}{DIM:#}")),
            None => self.line(line),
        })
    }

    pub fn blank(&self) -> Result<(), Failure> {
        self.line("")
    }

    /// The document for programs.
    pub fn end(self, by_hand: &str) -> Result<(), Failure> {
        if self.out.json {
            self.out.document(&json!({ "steps": self.steps, "by_hand": by_hand }))?;
        }
        Ok(())
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        if self.out.json { Ok(()) } else { self.out.line(text) }
    }
}

/// Lines of at most `width` characters, but for a word that is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one");
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
