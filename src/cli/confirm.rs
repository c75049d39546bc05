//! Asks a person for confirmation before something is done that cannot be undone.

use std::io::{self, BufRead, Write};

use super::failure::Failure;

/// The consequence of deleting a key or the keys of a DID.
pub const DELETE_WARNING: &str = "Messages that are encrypted to it can never be read again.";

/// Asks whether keys may be deleted. Any answer but yes is an error.
pub fn confirm(question: &str) -> Result<(), Failure> {
    confirm_that(question, "not confirmed: nothing was deleted", "--yes deletes without asking")
}

/// Asks a question on stderr, and reads the answer from stdin. Any answer but yes is an error with this message and hint.
pub fn confirm_that(question: &str, otherwise: &str, hint: &str) -> Result<(), Failure> {
    let mut stderr = anstream::stderr().lock();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::io("stdin", &error))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new("not-confirmed", otherwise).hint(hint)),
    }
}
