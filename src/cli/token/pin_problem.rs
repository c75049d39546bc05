//! The reasons why a token's PIN is not tried.

use claviger::secrets::pkcs11::{PinRecord, PinRecordState, PinState};

use crate::cli::shell::quoted;

/// A reason why the PIN is not tried, or should not be.
pub struct PinProblem {
    /// The word in the table of `token list`.
    pub word: &'static str,
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl PinProblem {
    /// Finds the problem by the PIN's state on the token, the PIN guard's record, and whether the token was opened.
    /// `when_locked` says what a person does about a locked PIN.
    pub fn find(
        name: &str,
        state: PinState,
        record: Option<&PinRecord>,
        opened: bool,
        when_locked: &str,
    ) -> Option<Self> {
        let unlock = format!("`claviger token unlock {}`", quoted(name));
        let once = format!("{unlock} tries the PIN once");
        let (word, message, hint) = match (state, record.map(|record| record.state)) {
            (PinState::Locked, _) => ("LOCKED", format!("THE PIN OF {name} IS LOCKED"), when_locked.to_owned()),
            (_, Some(PinRecordState::LockedByPerson)) => {
                ("LOCKED-HERE", format!("{name} was locked by `claviger token lock`"), format!("{unlock} unlocks it"))
            }
            (_, Some(PinRecordState::Refused)) => (
                "REFUSED",
                format!("THE PIN OF {name} WAS REFUSED and is not tried again"),
                format!(
                    "correct the PIN: a changed one is tried once, by a keeper that runs as a service after a restart; for an \
                     unchanged one, {once}"
                ),
            ),
            (_, Some(PinRecordState::Trying)) if !opened => {
                ("UNFINISHED", format!("the result of the last attempt with the PIN of {name} is not known"), once)
            }
            (PinState::FinalTry, _) => ("FINAL-TRY", format!("THE PIN OF {name} HAS ONE TRY LEFT"), once),
            (PinState::CountLow, _) => {
                ("COUNT-LOW", format!("a wrong PIN was given to {name} since the last correct one"), once)
            }
            (PinState::Ready, _) => return None,
        };
        Some(Self { word, message, hint })
    }
}
