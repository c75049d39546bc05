//! What is remembered of a token's PIN, so that a wrong one is tried once: across restarts, and by all programs that
//! share the folder.
//!
//! Remembered are the token's serial number and label, what the PIN's source is (never the PIN, its length or a hash of
//! it), and what came of the last try:
//!
//! | state | the PIN is tried |
//! |---|---|
//! | nothing, `accepted` | yes; not if the token says COUNT_LOW or FINAL_TRY: someone has tried a wrong one since |
//! | `refused`, by the same source, or by this one before | no |
//! | `refused`, and the source has changed | once, as a person has changed it; not on FINAL_TRY, where a mistake costs the token |
//! | `trying`: a try that never ended, as the program died in it | once, if the token accepted this source before; and as above if the source has changed |
//! | `locked`, by `claviger token lock` | no |
//!
//! `claviger token unlock` is a person's word: one try, whatever the state; a token that says LOCKED gets none at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{PinState, SourceId};
use crate::secrets::{TokenError, TokenInfo};

/// A token that refused so many has long been locked.
const MOST_REFUSED: usize = 16;

/// What is remembered of a token's PIN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PinMemory {
    /// The token's serial number.
    pub serial: String,
    /// Its label.
    pub label: String,
    /// What came of the last try.
    pub state: PinOutcome,
    /// When that was, in seconds since 1970 (UTC).
    pub at: u64,
    /// Of the last try.
    source: Option<SourceId>,
    /// What the token accepted last.
    accepted: Option<SourceId>,
    /// What it refused since it last took a PIN: another source that is refused in between makes none of them new.
    #[serde(default)]
    refused: Vec<SourceId>,
    /// A try was begun because one before it never ended.
    again: bool,
}

/// What came of the last try of a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinOutcome {
    /// There was none, or a person has unlocked the token since.
    New,
    /// The token took it.
    Accepted,
    /// It is being tried now, or the program that tried it died.
    Trying,
    /// The token refused it: it is not tried again until a person acts.
    Refused,
    /// A person locked the token: no PIN is used until a person unlocks it.
    Locked,
}

/// Why a PIN is not tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::secrets) enum Refusal {
    /// The token refused it.
    Refused,
    /// A try of it never ended.
    Unfinished,
    /// A person locked the token.
    ByPerson,
    /// The token says that a wrong one was given.
    CountLow,
    /// The token says that it has one try left.
    FinalTry,
    /// The token says that it is locked.
    Locked,
}

impl Refusal {
    /// What is said of it; `name` is the token's in the configuration.
    pub(in crate::secrets) fn of(self, label: &str, name: Option<&str>) -> TokenError {
        let unlock = format!("`claviger token unlock {}`", name.unwrap_or(label));
        TokenError::Pin(match self {
            Self::Refused => format!(
                "the token {label:?} refused its PIN, which is not tried again until a person changes its source or \
                 vouches for it: {unlock}"
            ),
            Self::Unfinished => format!(
                "a program that tried the PIN of the token {label:?} did not live to see what came of it; it is not \
                 tried again until a person vouches for it: {unlock}"
            ),
            Self::ByPerson => {
                format!("the token {label:?} was locked by `claviger token lock`: no PIN is used until {unlock}")
            }
            Self::CountLow => format!(
                "the PIN of the token {label:?} has been refused before (somewhere, since it was last right); it is not \
                 tried until a person vouches for it: {unlock}"
            ),
            Self::FinalTry => format!(
                "the PIN of the token {label:?} has one try left; it is not tried until a person vouches for it: {unlock}"
            ),
            Self::Locked => format!(
                "the PIN of the token {label:?} is locked: its security officer sets a new one, with the tools that \
                 came with the token"
            ),
        })
    }
}

impl PinMemory {
    pub(in crate::secrets) fn new(info: &TokenInfo) -> Self {
        let (serial, label) = (info.serial.clone(), info.label.clone());
        Self {
            serial,
            label,
            state: PinOutcome::New,
            at: 0,
            source: None,
            accepted: None,
            refused: Vec::new(),
            again: false,
        }
    }

    /// Whether a PIN of this source may be tried: what is then to be remembered before it is. `vouched`: a person says
    /// that it is right.
    pub(in crate::secrets) fn trying(
        &self,
        source: &SourceId,
        shown: PinState,
        vouched: bool,
    ) -> Result<Self, Refusal> {
        let mut next = Self { state: PinOutcome::Trying, source: Some(source.clone()), at: now(), ..self.clone() };
        next.again = false;
        if shown == PinState::Locked {
            return Err(Refusal::Locked);
        }
        if vouched {
            return Ok(next);
        }
        let changed = self.source.as_ref() != Some(source);
        if changed && self.refused.contains(source) && self.state != PinOutcome::Locked {
            return Err(Refusal::Refused);
        }
        match self.state {
            PinOutcome::Locked => return Err(Refusal::ByPerson),
            PinOutcome::Refused if !changed => return Err(Refusal::Refused),
            PinOutcome::Trying if !changed => {
                if self.again || self.accepted.as_ref() != Some(source) {
                    return Err(Refusal::Unfinished);
                }
                next.again = true;
            }
            PinOutcome::Refused | PinOutcome::Trying | PinOutcome::New | PinOutcome::Accepted => {}
        }
        if let (PinOutcome::Trying, true, Some(unfinished)) = (self.state, changed, &self.source) {
            // What came of it is not known: it is not tried again because another was in between.
            next.count_refused(unfinished);
        }
        let by_person = changed && matches!(self.state, PinOutcome::Refused | PinOutcome::Trying);
        match shown {
            PinState::Ready => Ok(next),
            PinState::CountLow if by_person => Ok(next),
            PinState::CountLow => Err(Refusal::CountLow),
            PinState::FinalTry | PinState::Locked => Err(Refusal::FinalTry),
        }
    }

    /// The token took the PIN of the try.
    pub(in crate::secrets) fn accepted(self) -> Self {
        let (accepted, refused) = (self.source.clone(), Vec::new());
        Self { state: PinOutcome::Accepted, accepted, refused, again: false, at: now(), ..self }
    }

    /// The token refused it.
    pub(in crate::secrets) fn refused(self) -> Self {
        let mut next = Self { state: PinOutcome::Refused, accepted: None, again: false, at: now(), ..self };
        if let Some(source) = next.source.clone() {
            next.count_refused(&source);
        }
        next
    }

    /// A person who types is there each time, and is not counted.
    fn count_refused(&mut self, source: &SourceId) {
        if *source != SourceId::Person && !self.refused.contains(source) {
            self.refused.push(source.clone());
        }
        let most = self.refused.len().saturating_sub(MOST_REFUSED);
        self.refused.drain(..most);
    }

    /// A person locks the token.
    pub(in crate::secrets) fn locked(self) -> Self {
        Self { state: PinOutcome::Locked, at: now(), ..self }
    }

    /// A person was asked for the PIN and gave a right one: nothing stands against the next try.
    pub(in crate::secrets) fn cleared(self) -> Self {
        let (source, accepted, refused) = (None, None, Vec::new());
        Self { state: PinOutcome::New, source, accepted, refused, again: false, at: now(), ..self }
    }

    /// Whether the token accepted the source of this try before.
    #[cfg(feature = "pkcs11")]
    pub(in crate::secrets) fn known_good(&self) -> bool {
        self.accepted.is_some() && self.accepted == self.source
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The folder where this is kept.
#[derive(Debug, Clone)]
pub(in crate::secrets) struct Guard {
    folder: PathBuf,
    info: TokenInfo,
}

/// The guard of one token, held against every other thread and program until it is dropped.
pub(in crate::secrets) struct Held<'g> {
    guard: &'g Guard,
    _lock: File,
}

impl Guard {
    pub(in crate::secrets) fn new(folder: &Path, token: &TokenInfo) -> Self {
        Self { folder: folder.to_owned(), info: token.clone() }
    }

    /// What is remembered, as it is now. The file is only ever replaced as a whole, so no lock is needed.
    pub(in crate::secrets) fn read(&self) -> Result<PinMemory, TokenError> {
        let path = self.path("json");
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.nothing()),
            Err(error) => return Err(self.failed(&path, &error)),
        }
        serde_json::from_str(&text).map_err(|error| self.failed(&path, &error.into()))
    }

    /// What is remembered of a token that no one has tried.
    fn nothing(&self) -> PinMemory {
        PinMemory::new(&self.info)
    }

    /// The same, for one whom a person has told what is right: a damaged file is as none.
    pub(in crate::secrets) fn read_if(&self, vouched: bool) -> Result<PinMemory, TokenError> {
        self.read().or_else(|error| if vouched { Ok(self.nothing()) } else { Err(error) })
    }

    /// Waits for whoever tries a PIN now.
    pub(in crate::secrets) fn hold(&self) -> Result<Held<'_>, TokenError> {
        let lock = || {
            make_folder(&self.folder)?;
            let lock = private().open(self.path("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let _lock = lock().map_err(|error| self.failed(&self.path("lock"), &error))?;
        Ok(Held { guard: self, _lock })
    }

    /// By serial number and label, whatever the module: some tokens have all zeros for a serial number.
    fn path(&self, ending: &str) -> PathBuf {
        let mut hash = Sha256::new();
        for part in [&self.info.serial, &self.info.label] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let name: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{name}.{ending}"))
    }

    fn failed(&self, path: &Path, error: &io::Error) -> TokenError {
        TokenError::Pin(format!(
            "the PIN of the token {:?} is not tried, since {} cannot be used to remember what comes of it ({error}): \
             make its folder one that this user can write to; a damaged file is written anew by `claviger token unlock`",
            self.info.label,
            path.display()
        ))
    }
}

impl Held<'_> {
    /// What is remembered, and stays so while this is held.
    pub(in crate::secrets) fn read_if(&self, vouched: bool) -> Result<PinMemory, TokenError> {
        self.guard.read_if(vouched)
    }

    /// Remembers it, also when the power fails.
    pub(in crate::secrets) fn write(&self, memory: &PinMemory) -> Result<(), TokenError> {
        let (path, aside) = (self.guard.path("json"), self.guard.path("new"));
        let write = || {
            // Under the lock no one else writes here; what a program that died left is overwritten.
            let mut file = private().truncate(true).open(&aside)?;
            file.write_all(&serde_json::to_vec(memory)?)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            sync_folder(&self.guard.folder)
        };
        write().map_err(|error: io::Error| self.guard.failed(&path, &error))
    }
}

/// For its owner alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> TokenInfo {
        TokenInfo { label: "demo".into(), serial: "1".into(), ..TokenInfo::default() }
    }

    fn file(inode: u64) -> SourceId {
        SourceId::File { path: "/etc/pin".into(), inode, modified: 7 }
    }

    const SHOWN: [PinState; 4] = [PinState::Ready, PinState::CountLow, PinState::FinalTry, PinState::Locked];

    /// What comes of each state, by what the token shows: none if the PIN is tried.
    fn judged(memory: &PinMemory, source: &SourceId, vouched: bool) -> [Option<Refusal>; 4] {
        SHOWN.map(|shown| memory.trying(source, shown, vouched).err())
    }

    #[test]
    fn the_table() {
        use Refusal::*;
        let new = PinMemory::new(&token());
        fn try_it(memory: &PinMemory, source: &SourceId) -> PinMemory {
            memory.trying(source, PinState::Ready, false).unwrap()
        }
        let accepted = try_it(&new, &file(1)).accepted();
        let refused = try_it(&accepted, &file(1)).refused();
        let died_new = try_it(&new, &file(1));
        let died_known = try_it(&accepted, &file(1));
        let died_again = try_it(&died_known, &file(1));
        let locked = accepted.clone().locked();
        let by_flags = [None, Some(CountLow), Some(FinalTry), Some(Locked)];
        let changed = [None, None, Some(FinalTry), Some(Locked)];
        let never = |refusal| [Some(refusal), Some(refusal), Some(refusal), Some(Locked)];
        for (memory, same, other) in [
            (&new, by_flags, by_flags),
            (&accepted, by_flags, by_flags),
            (&refused, never(Refused), changed),
            (&died_new, never(Unfinished), changed),
            (&died_known, by_flags, changed),
            (&died_again, never(Unfinished), changed),
            (&locked, never(ByPerson), never(ByPerson)),
        ] {
            assert_eq!(judged(memory, &file(1), false), same, "{memory:?}, the same source");
            assert_eq!(judged(memory, &file(2), false), other, "{memory:?}, another source");
            assert_eq!(judged(memory, &file(1), true), [None, None, None, Some(Locked)], "{memory:?}, vouched");
        }
        // After a refusal the source is not known to be good.
        let vouched = refused.trying(&file(1), PinState::Ready, true).unwrap();
        assert_eq!(vouched.trying(&file(1), PinState::Ready, false), Err(Unfinished));
        // Two sources in turn: the first is not new again because the second was refused.
        let both = refused.trying(&file(2), PinState::Ready, false).unwrap().refused();
        assert_eq!(judged(&both, &file(1), false), never(Refused), "refused, another refused, and the first again");
        assert_eq!(judged(&both, &file(3), false), changed);
        let accepted_since = both.trying(&file(3), PinState::Ready, false).unwrap().accepted();
        assert_eq!(judged(&accepted_since, &file(1), false), by_flags);
        // A success ends the row of tries that did not.
        assert_eq!(judged(&try_it(&died_known, &file(1)).accepted(), &file(1), false), by_flags);
    }

    #[test]
    fn it_is_kept_by_token_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state/pin-guard");
        let guard = Guard::new(&folder, &token());
        assert_eq!(guard.read().unwrap(), PinMemory::new(&token()));
        let refused = PinMemory::new(&token()).trying(&file(1), PinState::Ready, false).unwrap().refused();
        guard.hold().unwrap().write(&refused).unwrap();
        assert_eq!(guard.read().unwrap(), refused);
        let other = Guard::new(&folder, &TokenInfo { label: "dem".into(), serial: "o1".into(), ..token() });
        assert_eq!(other.read().unwrap().state, PinOutcome::New);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&folder), mode(&guard.path("json"))), (0o700, 0o600));
        }
        for damage in ["", "{}", "{\"state\": \"accepted\"}", "accepted"] {
            fs::write(guard.path("json"), damage).unwrap();
            assert!(
                matches!(guard.read(), Err(TokenError::Pin(reason)) if reason.contains("is not tried")),
                "{damage}"
            );
        }
    }

    #[test]
    fn what_cannot_be_kept_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let guard = Guard::new(&folder.path().join("file/pin-guard"), &token());
        assert!(matches!(guard.hold().err(), Some(TokenError::Pin(reason)) if reason.contains("pin-guard")));
    }
}
