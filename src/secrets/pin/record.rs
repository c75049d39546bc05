//! The record of a token's last PIN attempt, and the rules that decide from it whether a PIN may be tried.
//!
//! | recorded state | may the PIN be tried? |
//! |---|---|
//! | no record (`new`), or `accepted` | Yes, unless the token reports COUNT_LOW or FINAL_TRY: someone has entered a wrong PIN since. |
//! | `refused`, same source, or a source that was refused since the last accepted PIN | No. |
//! | `refused`, source changed (another file, or the file was written since) | Once: a person has changed it. Not at FINAL_TRY, where a mistake locks the token. |
//! | `trying`: the result is unknown, because the program ended or the token's answer was unclear | Once, if the token accepted this source before. If the source has changed: as for `refused`. |
//! | `locked` by `claviger token lock` | No. |
//!
//! A source is recognised by its [`PinSourceId`]. That of a credential is its name, and that of `pin-value` is
//! constant. After a refusal, another PIN in the same credential or in `pin-value` is recognised by its [`PinMark`]. If
//! the result of an attempt is unknown, there is no mark, and another PIN there is not recognised: the PIN may be correct,
//! and nothing of a correct PIN is recorded.
//!
//! `claviger token unlock` confirms the PIN: one attempt is made in any of these states. A PIN typed for a YubiKey also
//! counts as confirmed, except after `claviger token lock`. A token that reports LOCKED gets no attempt at all. Nor does a
//! credential that this process has presented already: it is the one that was read when the service was started, and not
//! the one that a person has corrected since.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{mark::PinMark, prompt::PinState, source_id::PinSourceId};
use crate::secrets::{TokenError, TokenInfo, shell_word::shell_word};

/// The number of refused sources that a record lists. A token locks itself long before it has refused so many PINs.
const MAX_REFUSED_SOURCES: usize = 16;

/// The record of a token's last PIN attempt. Contains nothing of a PIN that the token accepted or may accept, and eight
/// bits of the hash of one that it refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PinRecord {
    /// The token's serial number.
    pub serial: String,
    /// The token's label.
    pub label: String,
    /// The result of the last attempt.
    pub state: PinRecordState,
    /// When the state was recorded, in seconds since 1970 (UTC).
    #[serde(rename = "at")]
    pub recorded_at: u64,
    /// The source of the last attempt.
    source: Option<PinSourceId>,
    /// The source of the last PIN that the token accepted.
    accepted: Option<PinSourceId>,
    /// The sources that the token refused since it last accepted a PIN. A source in this list does not count as
    /// changed, even if another source was refused after it.
    #[serde(default)]
    refused: Vec<PinSourceId>,
    /// The marks of the PINs that the token refused, for sources in `refused` that keep their identity. No mark means that
    /// the PIN is not known. A record of an older release has no marks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    marks: Vec<(PinSourceId, Option<PinMark>)>,
    /// Whether the last attempt repeated an unfinished one.
    #[serde(rename = "again")]
    repeats_unfinished: bool,
}

/// The result of the last PIN attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinRecordState {
    /// There was no attempt, or a person has unlocked the token since.
    New,
    /// The token accepted the PIN.
    Accepted,
    /// The attempt is in progress, or its result is unknown: the program ended, or the token's answer was unclear.
    Trying,
    /// The token refused the PIN. It is not tried again until a person acts.
    Refused,
    /// A person locked the token. No PIN is used until a person unlocks it.
    #[serde(rename = "locked")]
    LockedByPerson,
}

/// Why a PIN is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::secrets) enum PinRefusal {
    /// The token refused the PIN from this source.
    Refused,
    /// The token refused the PIN in this process, and a person confirmed it, but it has not changed in this process.
    Unchanged,
    /// The result of an earlier attempt is unknown.
    Unfinished,
    /// A person locked the token.
    LockedByPerson,
    /// The token reports that a wrong PIN was entered.
    CountLow,
    /// The token reports one try left.
    FinalTry,
    /// The token reports that its PIN is locked.
    Locked,
}

impl PinRefusal {
    /// The error to report. `label` is the token's, `name` its name in the configuration. `when_locked` says what to do
    /// about a locked PIN.
    pub(super) fn error(self, label: &str, name: Option<&str>, when_locked: &str) -> TokenError {
        let unlock = format!("`claviger token unlock {}`", shell_word(name.unwrap_or(label)));
        TokenError::Pin(match self {
            Self::Refused => {
                format!(
                    "the token {label:?} refused its PIN; the PIN is not tried again until you change it at its source or run \
                     {unlock}"
                )
            }
            Self::Unchanged => format!(
                "the token {label:?} refused the PIN that this keeper has read, and the keeper reads a credential or \
                 pin-value when it is started: restart its service, which tries a changed PIN once. If the PIN is \
                 unchanged, and correct now, run {unlock} after that"
            ),
            Self::Unfinished => format!(
                "the result of the last attempt with the PIN of the token {label:?} is unknown; the PIN is not tried \
                 again until you change its file or run {unlock}"
            ),
            Self::LockedByPerson => {
                format!(
                    "the token {label:?} was locked by `claviger token lock`; no PIN is used until you run {unlock}"
                )
            }
            Self::CountLow => format!(
                "a wrong PIN was entered for the token {label:?} since the last correct one; the PIN is not tried \
                 until you run {unlock}"
            ),
            Self::FinalTry => {
                format!("the PIN of the token {label:?} has one try left; it is not tried until you run {unlock}")
            }
            Self::Locked => format!("the PIN of the token {label:?} is locked; {when_locked}"),
        })
    }
}

impl PinRecord {
    /// The record of a token for which no PIN was tried.
    pub(super) fn new(info: &TokenInfo) -> Self {
        let (serial, label) = (info.serial.clone(), info.label.clone());
        Self {
            serial,
            label,
            state: PinRecordState::New,
            recorded_at: 0,
            source: None,
            accepted: None,
            refused: Vec::new(),
            marks: Vec::new(),
            repeats_unfinished: false,
        }
    }

    /// Decides whether a PIN from `source` with this mark may be tried. Returns the record to store before the attempt, or
    /// the reason why the PIN must not be tried.
    ///
    /// `reported` is what the token reports about the tries left. `confirmed` means that a person says the PIN is
    /// correct, or typed the PIN for a YubiKey, whose prompt shows the tries left.
    pub(super) fn begin_attempt(
        &self,
        source: &PinSourceId,
        mark: Option<PinMark>,
        reported: PinState,
        confirmed: bool,
    ) -> Result<Self, PinRefusal> {
        let mut next = Self {
            state: PinRecordState::Trying,
            source: Some(source.clone()),
            recorded_at: now(),
            repeats_unfinished: false,
            ..self.clone()
        };
        if reported == PinState::Locked {
            return Err(PinRefusal::Locked);
        }
        if confirmed {
            return Ok(next);
        }
        let has_other_pin =
            mark.is_some() && self.state == PinRecordState::Refused && !self.lists_as_refused(source, mark);
        let changed = self.source.as_ref() != Some(source) || has_other_pin;
        if changed && self.lists_as_refused(source, mark) && self.state != PinRecordState::LockedByPerson {
            return Err(PinRefusal::Refused);
        }
        match self.state {
            PinRecordState::LockedByPerson => return Err(PinRefusal::LockedByPerson),
            PinRecordState::Refused if !changed => return Err(PinRefusal::Refused),
            PinRecordState::Trying if !changed => {
                if self.repeats_unfinished || self.accepted.as_ref() != Some(source) {
                    return Err(PinRefusal::Unfinished);
                }
                next.repeats_unfinished = true;
            }
            PinRecordState::Refused | PinRecordState::Trying | PinRecordState::New | PinRecordState::Accepted => {}
        }
        if let (PinRecordState::Trying, true, Some(unfinished)) = (self.state, changed, &self.source) {
            // The result of the attempt with that source is unknown. The source counts as refused, so that it is not
            // tried again after another source was tried.
            next.add_refused(unfinished, None);
        }
        let changed_by_person = changed && matches!(self.state, PinRecordState::Refused | PinRecordState::Trying);
        match reported {
            PinState::Ready => Ok(next),
            PinState::CountLow if changed_by_person => Ok(next),
            PinState::CountLow => Err(PinRefusal::CountLow),
            PinState::FinalTry | PinState::Locked => Err(PinRefusal::FinalTry),
        }
    }

    /// The record after the token accepted the PIN.
    pub(super) fn accepted(self) -> Self {
        Self {
            state: PinRecordState::Accepted,
            accepted: self.source.clone(),
            refused: Vec::new(),
            marks: Vec::new(),
            repeats_unfinished: false,
            recorded_at: now(),
            ..self
        }
    }

    /// The record after the token refused the PIN with this mark. No mark means that another PIN of the same credential or
    /// `pin-value` is not recognised.
    pub(super) fn refused(self, mark: Option<PinMark>) -> Self {
        let mut next = Self {
            state: PinRecordState::Refused,
            accepted: None,
            repeats_unfinished: false,
            recorded_at: now(),
            ..self
        };
        if let Some(source) = next.source.clone() {
            next.add_refused(&source, mark);
        }
        next
    }

    /// Whether a person has typed a correct PIN or set a new one (`claviger token unlock` in another process), after the
    /// token refused the PIN in `refusal`.
    pub(super) fn was_cleared_after(&self, refusal: &Self) -> bool {
        let is_cleared = self.state == PinRecordState::New && self.recorded_at >= refusal.recorded_at;
        refusal.state == PinRecordState::Refused && self.recorded_at > 0 && is_cleared
    }

    /// Whether the last attempt was with this source and this PIN, and the token refused it.
    pub(super) fn is_refusal_of(&self, source: &PinSourceId, mark: Option<PinMark>) -> bool {
        self.state == PinRecordState::Refused && *source != PinSourceId::Person && self.lists_as_refused(source, mark)
    }

    /// Whether a PIN from this source with this mark was refused since the last accepted PIN, or may have been.
    fn lists_as_refused(&self, source: &PinSourceId, mark: Option<PinMark>) -> bool {
        let mut marks = self.marks.iter().filter(|(of, _)| of == source).peekable();
        let is_unmarked = mark.is_none() || marks.peek().is_none();
        self.refused.contains(source)
            && (is_unmarked || marks.any(|(_, refused)| refused.is_none() || *refused == mark))
    }

    /// The record after a person locked the token.
    pub(super) fn locked_by_person(self) -> Self {
        Self { state: PinRecordState::LockedByPerson, recorded_at: now(), ..self }
    }

    /// The record after a person typed a correct PIN or set a new one: nothing forbids the next attempt.
    pub(super) fn cleared(self) -> Self {
        Self {
            state: PinRecordState::New,
            source: None,
            accepted: None,
            refused: Vec::new(),
            marks: Vec::new(),
            repeats_unfinished: false,
            recorded_at: now(),
            ..self
        }
    }

    /// Whether the token accepted an earlier PIN from the source of this attempt.
    #[cfg(feature = "pkcs11")]
    pub(super) fn was_accepted_before(&self) -> bool {
        self.accepted.is_some() && self.accepted == self.source
    }

    /// Lists a source as refused, with the mark of its PIN. A person is not listed, since a person decides anew each time.
    fn add_refused(&mut self, source: &PinSourceId, mark: Option<PinMark>) {
        let marked = (source.clone(), mark);
        if source.has_marks() && !self.marks.contains(&marked) {
            self.marks.push(marked);
        }
        self.marks.drain(..self.marks.len().saturating_sub(MAX_REFUSED_SOURCES));
        if *source != PinSourceId::Person && !self.refused.contains(source) {
            self.refused.push(source.clone());
        }
        let excess = self.refused.len().saturating_sub(MAX_REFUSED_SOURCES);
        self.refused.drain(..excess);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> PinSourceId {
        PinSourceId::File { path: "/etc/pin".into(), inode, modified: 7 }
    }

    const REPORTED: [PinState; 4] = [PinState::Ready, PinState::CountLow, PinState::FinalTry, PinState::Locked];

    /// The decision for each state that a token may report: none if the PIN is tried.
    fn decisions(record: &PinRecord, source: &PinSourceId, confirmed: bool) -> [Option<PinRefusal>; 4] {
        REPORTED.map(|reported| record.begin_attempt(source, None, reported, confirmed).err())
    }

    #[test]
    fn the_table_at_the_top_of_this_file() {
        use PinRefusal::*;
        fn attempt(record: &PinRecord, source: &PinSourceId) -> PinRecord {
            record.begin_attempt(source, None, PinState::Ready, false).unwrap()
        }
        let new = PinRecord::new(&TokenInfo { label: "demo".into(), serial: "1".into(), ..TokenInfo::default() });
        let accepted = attempt(&new, &file(1)).accepted();
        let refused = attempt(&accepted, &file(1)).refused(None);
        let unfinished_new = attempt(&new, &file(1));
        let unfinished_known = attempt(&accepted, &file(1));
        let unfinished_again = attempt(&unfinished_known, &file(1));
        let locked = accepted.clone().locked_by_person();
        let by_flags = [None, Some(CountLow), Some(FinalTry), Some(Locked)];
        let changed = [None, None, Some(FinalTry), Some(Locked)];
        let never = |refusal| [Some(refusal), Some(refusal), Some(refusal), Some(Locked)];
        for (record, same, other) in [
            (&new, by_flags, by_flags),
            (&accepted, by_flags, by_flags),
            (&refused, never(Refused), changed),
            (&unfinished_new, never(Unfinished), changed),
            (&unfinished_known, by_flags, changed),
            (&unfinished_again, never(Unfinished), changed),
            (&locked, never(LockedByPerson), never(LockedByPerson)),
        ] {
            assert_eq!(decisions(record, &file(1), false), same, "{record:?}, the same source");
            assert_eq!(decisions(record, &file(2), false), other, "{record:?}, another source");
            assert_eq!(decisions(record, &file(1), true), [None, None, None, Some(Locked)], "{record:?}, confirmed");
        }
        // After a refusal the source is no longer known to be good.
        let confirmed = refused.begin_attempt(&file(1), None, PinState::Ready, true).unwrap();
        assert_eq!(confirmed.begin_attempt(&file(1), None, PinState::Ready, false), Err(Unfinished));
        // Two sources in turn: the first does not count as changed after the second was refused.
        let both = refused.begin_attempt(&file(2), None, PinState::Ready, false).unwrap().refused(None);
        assert_eq!(decisions(&both, &file(1), false), never(Refused), "refused, another refused, the first again");
        assert_eq!(decisions(&both, &file(3), false), changed);
        let accepted_since = both.begin_attempt(&file(3), None, PinState::Ready, false).unwrap().accepted();
        assert_eq!(decisions(&accepted_since, &file(1), false), by_flags);
        // An accepted PIN clears the unfinished attempts before it.
        assert_eq!(decisions(&attempt(&unfinished_known, &file(1)).accepted(), &file(1), false), by_flags);
    }

    /// A credential keeps its name. After a refusal, another PIN in it is tried once, and no refused PIN is tried again.
    #[test]
    fn another_pin_in_the_same_credential_is_tried_once() {
        use PinRefusal::*;
        let (credential, mark) = (PinSourceId::Credential("pin".into()), |bits| Some(PinMark::for_test(bits)));
        let decide =
            |record: &PinRecord, bits, reported| record.begin_attempt(&credential, mark(bits), reported, false);
        let decisions = |record: &PinRecord, bits| REPORTED.map(|reported| decide(record, bits, reported).err());
        let new = PinRecord::new(&TokenInfo { label: "demo".into(), serial: "1".into(), ..TokenInfo::default() });
        let refused = decide(&new, 1, PinState::Ready).unwrap().refused(mark(1));
        assert_eq!(decisions(&refused, 1), [Some(Refused), Some(Refused), Some(Refused), Some(Locked)]);
        assert_eq!(decisions(&refused, 2), [None, None, Some(FinalTry), Some(Locked)], "a person has corrected it");
        let both = decide(&refused, 2, PinState::CountLow).unwrap().refused(mark(2));
        for bits in [1, 2] {
            assert_eq!(decide(&both, bits, PinState::Ready), Err(Refused), "one refused PIN after the other");
        }
        assert!(decide(&both, 3, PinState::Ready).is_ok());
        assert_eq!(decide(&both.clone().locked_by_person(), 3, PinState::Ready), Err(LockedByPerson));
        let accepted = decide(&both, 3, PinState::Ready).unwrap().accepted();
        assert!(!serde_json::to_string(&accepted).unwrap().contains("marks"), "nothing of a correct PIN is recorded");
        // If the PIN is not known, another one is not recognised: after a full disk, and in a record of an older release.
        let unmarked = decide(&new, 1, PinState::Ready).unwrap().refused(None);
        let older = PinRecord { marks: Vec::new(), ..refused.clone() };
        let partly = decide(&refused, 2, PinState::Ready).unwrap().refused(None);
        for record in [&unmarked, &older, &partly] {
            assert_eq!(decide(record, 3, PinState::Ready), Err(Refused), "{record:?}");
        }
        // The result is unknown, so the PIN may be correct, and has no mark.
        let unfinished = decide(&refused, 2, PinState::Ready).unwrap();
        assert_eq!(decide(&unfinished, 3, PinState::Ready), Err(Unfinished));
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(serde_json::from_str::<PinRecord>(&text).unwrap(), refused);
        assert!(text.contains(r#""marks":[[{"credential":"pin"},1]]"#), "{text}");
    }
}
