//! Reads messages from stdin or a file: one message, or one per line. A message that is too long is not kept in memory.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::{Path, PathBuf},
};

use claviger::jose::{JoseError, Limits};

use super::{failure::Failure, output::Out};

/// Where messages are read from.
pub enum Input {
    Stdin,
    File(PathBuf, File),
}

impl Input {
    /// Opens a file; without one, the input is stdin. Must be called before the process enters its sandbox.
    pub fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = file else { return Ok(Self::Stdin) };
        let opened = File::open(path).map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Self::File(path.to_owned(), opened))
    }

    /// The open file.
    pub fn file(&self) -> Option<&File> {
        match self {
            Self::Stdin => None,
            Self::File(_, file) => Some(file),
        }
    }

    /// Reads to the end, as one message. `what` names the message for a person at a terminal.
    pub fn read_message(self, out: &Out, what: &str) -> Result<String, Failure> {
        if matches!(self, Self::Stdin) && io::stdin().is_terminal() {
            out.say(&format!("Reading {what} from the terminal; end it with Ctrl-D."));
        }
        let (name, reader) = self.reader();
        let mut bytes = Vec::new();
        reader.take(limit() as u64 + 1).read_to_end(&mut bytes).map_err(|error| Failure::io(name, &error))?;
        text(bytes)
    }

    /// Reads messages, one per line. Empty lines are skipped.
    pub fn read_lines(self) -> impl Iterator<Item = Result<String, Failure>> {
        let (name, mut reader) = self.reader();
        std::iter::from_fn(move || {
            loop {
                match read_line(&mut reader) {
                    Ok(None) => return None,
                    Ok(Some(bytes)) if bytes.trim_ascii().is_empty() => {}
                    Ok(Some(bytes)) => return Some(text(bytes)),
                    Err(error) => return Some(Err(Failure::io(&name, &error))),
                }
            }
        })
    }

    /// The name of the input for errors, and its content.
    fn reader(self) -> (String, Box<dyn BufRead>) {
        match self {
            Self::Stdin => ("stdin".to_owned(), Box::new(io::stdin().lock())),
            Self::File(path, file) => (path.display().to_string(), Box::new(BufReader::new(file))),
        }
    }
}

/// Reads a line. Keeps at most one byte more than the limit, and discards the rest of the line.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut kept = Vec::new();
    let mut any = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(any.then_some(kept));
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        let room = (limit() + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
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
