//! Reads messages from stdin: one message, or one per line. A message that is too long is not kept in memory.

use std::io::{self, BufRead, IsTerminal, Read};

use claviger::jose::{JoseError, Limits};

use super::{failure::Failure, output::Out};

/// Reads stdin to its end as one message. `what` names the message for a person at a terminal.
pub fn read_message(out: &Out, what: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        out.say(&format!("Reading {what} from the terminal; end it with Ctrl-D."));
    }
    let mut bytes = Vec::new();
    stdin.lock().take(limit() as u64 + 1).read_to_end(&mut bytes).map_err(|error| Failure::io("stdin", &error))?;
    text(bytes)
}

/// Reads messages from stdin, one per line. Empty lines are skipped.
pub fn read_lines() -> impl Iterator<Item = Result<String, Failure>> {
    let mut stdin = io::stdin().lock();
    std::iter::from_fn(move || {
        loop {
            match read_line(&mut stdin) {
                Ok(None) => return None,
                Ok(Some(bytes)) if bytes.trim_ascii().is_empty() => {}
                Ok(Some(bytes)) => return Some(text(bytes)),
                Err(error) => return Some(Err(Failure::io("stdin", &error))),
            }
        }
    })
}

/// Reads a line. Keeps at most one byte more than the limit, and discards the rest of the line.
fn read_line(stdin: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut kept = Vec::new();
    let mut any = false;
    loop {
        let buffer = stdin.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any.then_some(kept));
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        let room = (limit() + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        stdin.consume(used);
        if end.is_some() {
            return Ok(Some(kept));
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.len() > limit() {
        return Err(JoseError::TooLarge { size: bytes.len(), limit: limit() }.into());
    }
    String::from_utf8(bytes).map_err(|_| Failure::new("bad-message", "the message is not UTF-8"))
}

fn limit() -> usize {
    Limits::default().bytes
}
