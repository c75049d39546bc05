//! [`ChainedFile`]: appends lines to the audit file, each chained to the line before it.
//!
//! Several keepers write to one file: those of several tokens, and two of one token while one takes over from the other.
//! Each write holds the file's lock (flock(2)), so that a keeper sees the lines of the others before its own. The file is
//! renamed by whoever rotates logs. The first keeper that notices ends it with a line, and goes on in a new file under the
//! old name. The others find this line before they write, and follow. A keeper that needs the locks of two files takes that
//! of the newer one first.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::chain::{ChainEnd, ROTATE};
use crate::secrets::mutex::lock;

/// How long a write waits for another keeper's write. A keeper that was stopped in the middle of one holds the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The target of the log line with the last hash.
pub const AUDIT_HEAD: &str = "claviger::audit_head";
/// How often the last hash is logged, at most.
const HEAD_INTERVAL: Duration = Duration::from_secs(3600);

/// An audit file, open for appending.
pub(super) struct ChainedFile {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    /// Whether it is a file. A pipe or a device has no end to read, no lock and no successor.
    is_regular: bool,
    /// The end of the chain, and the size of the file then. `None` if it must be read.
    end: Option<(u64, ChainEnd)>,
    /// When the last hash was logged.
    head_logged: Instant,
}

impl ChainedFile {
    /// Opens the file for appending (O_APPEND). If it does not exist, it is created with mode 0600.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let is_regular = file.metadata()?.is_file();
        let state = State { file, is_regular, end: None, head_logged: Instant::now() };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Appends lines with one write. Each is a JSON object, and gets its number and its hash.
    pub(super) fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.state);
        let size = state.lock(&self.path, false)?;
        let written = state.append(&self.path, size, lines);
        state.unlock();
        state.log_head();
        written
    }

    /// Leaves a file that was renamed. Until this is called, or another keeper does it, lines go to that file.
    ///
    /// # Errors
    /// If no new file can be made. Lines go on to the file that was renamed.
    pub(super) fn reopen(&self) -> io::Result<()> {
        // While a thread writes, the next call is early enough.
        let Ok(mut state) = self.state.try_lock() else { return Ok(()) };
        if !state.is_regular || is_same(&state.file.metadata()?, &self.path)? {
            return Ok(());
        }
        state.lock(&self.path, true)?;
        state.unlock();
        Ok(())
    }
}

impl State {
    /// Locks the file that the path names now, and returns its size. If that is another file than before, the chain
    /// goes on in it.
    ///
    /// The path is compared if `must_follow` is set, or another keeper has written: it may have gone on in another file,
    /// and has then ended this one with a line. If there can be no new file, that is an error only if `must_follow` is
    /// set.
    fn lock(&mut self, path: &Path, must_follow: bool) -> io::Result<u64> {
        if !self.is_regular {
            return Ok(0);
        }
        loop {
            wait_for_lock(&self.file)?;
            match self.follow(path, must_follow) {
                Ok(Some(size)) => return Ok(size),
                Ok(None) => tracing::info!(path = %path.display(), "audit continued in a new file"),
                Err(error) => {
                    self.unlock();
                    return Err(error);
                }
            }
        }
    }

    /// Goes on in the file that the path names now, and returns none; or returns the size of the locked file, if it is
    /// the same one.
    fn follow(&mut self, path: &Path, must_follow: bool) -> io::Result<Option<u64>> {
        let size = self.file.seek(SeekFrom::End(0))?;
        // An empty file may have been renamed and its successor begun, and nothing in it says so.
        if !must_follow && size > 0 && self.end.is_some_and(|(known, _)| known == size) {
            return Ok(Some(size));
        }
        let next = match is_same(&self.file.metadata()?, path) {
            Ok(true) => return Ok(Some(size)),
            Ok(false) => open(path),
            Err(error) => Err(error),
        };
        let mut next = match next {
            Ok(next) => next,
            Err(error) if must_follow => return Err(error),
            Err(_) => return Ok(Some(size)),
        };
        self.unlock();
        wait_for_lock(&next)?;
        let next_size = next.seek(SeekFrom::End(0))?;
        let end = match ChainEnd::read(&next, next_size)? {
            ChainEnd::NOTHING => {
                wait_for_lock(&self.file)?;
                let size = self.file.seek(SeekFrom::End(0))?;
                let before = close(&self.file, self.end(size)?)?;
                self.unlock();
                // This keeper may have missed a file that was renamed, too.
                let last = close_last_rotated(path).filter(|last| last.seq > before.seq).unwrap_or(before);
                ChainEnd { is_torn: false, is_closed: false, ..last }
            }
            // Another keeper was first.
            end => end,
        };
        next.unlock()?;
        // Closing the old file unlocks it.
        (self.file, self.end) = (next, Some((next_size, end)));
        Ok(None)
    }

    fn unlock(&self) {
        if self.is_regular {
            // An error would show in the next lock.
            let _ = self.file.unlock();
        }
    }

    /// Appends lines to the locked file of `size` bytes.
    fn append(&mut self, path: &Path, size: u64, lines: &[u8]) -> io::Result<()> {
        let mut end = self.end(size)?;
        if end == ChainEnd::NOTHING && self.is_regular {
            end = close_last_rotated(path).unwrap_or(ChainEnd::NOTHING);
        }
        let mut text = Vec::with_capacity(lines.len() + 512);
        if std::mem::take(&mut end.is_torn) {
            text.push(b'\n');
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            end.append(line, &mut text);
        }
        // What a failed write leaves is read before the next one.
        self.end = None;
        self.file.write_all(&text)?;
        self.end = Some((size + text.len() as u64, end));
        Ok(())
    }

    /// The end of the chain in a file of `size` bytes. It is read if another keeper has written, and remembered if the
    /// file was cut.
    fn end(&self, size: u64) -> io::Result<ChainEnd> {
        match self.end {
            Some((_, end)) if !self.is_regular => Ok(end),
            Some((known, end)) if size == known => Ok(end),
            // Copied and truncated by whoever rotates logs, or cut by somebody else. The next line names the last one
            // that this keeper knows, so that lines that are gone are seen to be missing.
            Some((known, end)) if size < known => {
                let read = ChainEnd::read(&self.file, size)?;
                // Another keeper may have gone on already.
                Ok(if read.seq > end.seq { read } else { ChainEnd { is_torn: read.is_torn, ..end } })
            }
            _ if self.is_regular => ChainEnd::read(&self.file, size),
            _ => Ok(ChainEnd::NOTHING),
        }
    }

    fn log_head(&mut self) {
        if self.head_logged.elapsed() < HEAD_INTERVAL {
            return;
        }
        if let Some((_, ChainEnd { seq, head: Some(sha256), .. })) = self.end {
            self.head_logged = Instant::now();
            tracing::info!(target: AUDIT_HEAD, seq, %sha256, "audit head");
        }
    }
}

/// Waits for the lock of a file.
fn wait_for_lock(file: &File) -> io::Result<()> {
    let until = Instant::now() + LOCK_TIMEOUT;
    let mut attempts = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() > until => break,
            // Another keeper's write takes some ten microseconds.
            Err(TryLockError::WouldBlock) if attempts < 20 => thread::yield_now(),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
        attempts += 1;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds the lock of the audit file"))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Whether the path names the open file.
fn is_same(file: &Metadata, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (file.dev(), file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends a locked file with a line, unless that was done. `end` is its end now; returns the end then.
fn close(mut file: &File, mut end: ChainEnd) -> io::Result<ChainEnd> {
    if end.is_closed || end == ChainEnd::NOTHING {
        return Ok(end);
    }
    let mut text = if end.is_torn { b"\n".to_vec() } else { Vec::new() };
    let time = humantime::format_rfc3339_micros(SystemTime::now());
    end.append(format!("{{\"time\":\"{time}\",\"operation\":\"{ROTATE}\"}}\n").as_bytes(), &mut text);
    match file.write_all(&text) {
        Ok(()) => Ok(end),
        // The next file names what is there.
        Err(error) => {
            tracing::warn!(%error, "cannot end the audit file that was renamed");
            ChainEnd::read(file, file.metadata()?.len())
        }
    }
}

/// The end of the chain in the file that was rotated last; `None` if there is no file with a chain. The file is ended with
/// a line, so that a keeper that has not noticed its new name yet adds no other one.
fn close_last_rotated(path: &Path) -> Option<ChainEnd> {
    let mut rotated = rotated_files(path);
    rotated.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
    let read = |file: &File| ChainEnd::read(file, file.metadata()?.len());
    let chained = |(path, modified): &(PathBuf, Duration)| {
        let end = read(&File::open(path).ok()?).ok()?;
        (end.seq > 0).then(|| (path.clone(), *modified, end))
    };
    // Two files may have been changed within one tick of the file system's clock.
    let (_, latest, _) = rotated.iter().find_map(chained)?;
    let of_latest = rotated.iter().filter(|(_, modified)| *modified == latest).filter_map(chained);
    let (path, _, end) = of_latest.max_by_key(|(.., end)| end.seq)?;
    let close_file = || {
        let file = OpenOptions::new().read(true).append(true).open(path)?;
        wait_for_lock(&file)?;
        close(&file, read(&file)?)
    };
    // A file that cannot be written is named as it is.
    let end = close_file().unwrap_or(end);
    Some(ChainEnd { is_torn: false, is_closed: false, ..end })
}

/// The files beside `path` whose name is that of `path` with an ending, such as `audit.jsonl.1` or
/// `audit.jsonl-20261129`, with the time of their last change.
fn rotated_files(path: &Path) -> Vec<(PathBuf, Duration)> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_rotated = |other: &OsStr| {
        let ending = other.as_encoded_bytes().strip_prefix(name);
        ending.is_some_and(|ending| matches!(ending.first(), Some(b'.' | b'-')))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let rotated = entries.filter(|entry| is_rotated(&entry.file_name()));
    let files = rotated.filter_map(|entry| {
        let metadata = entry.metadata().ok().filter(Metadata::is_file)?;
        let modified = Duration::from_secs(metadata.mtime().try_into().ok()?);
        Some((entry.path(), modified + Duration::from_nanos(metadata.mtime_nsec().try_into().ok()?)))
    });
    files.collect()
}

/// An audit file and the files that were rotated from it, those without the file itself if it is absent.
pub fn audit_files(path: &Path) -> Vec<PathBuf> {
    let rotated = rotated_files(path).into_iter().map(|(path, _)| path);
    rotated.chain(path.exists().then(|| path.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::{io::BufReader, sync::Barrier};

    use super::{super::verify::AuditVerifier, *};

    /// Lines go on to the file that was renamed, until there can be a new one. Nobody waits for a lock meanwhile.
    #[test]
    fn a_file_that_cannot_be_followed_is_used_on() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
        let [one, other] = [(); 2].map(|()| ChainedFile::open(&path).unwrap());
        let line = |file: &ChainedFile| file.append(b"{\"time\":\"now\"}\n").unwrap();
        line(&one);
        line(&other);
        fs::rename(&path, &rotated).unwrap();
        // A folder in the place of the new file.
        fs::create_dir(&path).unwrap();
        for file in [&one, &other, &one, &one] {
            assert!(file.reopen().is_err());
            line(file);
        }
        fs::remove_dir(&path).unwrap();
        // A keeper that is started before the others notice ends the old file, so that they follow before they write.
        let new = ChainedFile::open(&path).unwrap();
        for file in [&new, &other, &one] {
            line(file);
            file.reopen().unwrap();
        }
        [&one, &other, &new].into_iter().for_each(line);
        let mut verifier = AuditVerifier::new([]);
        for path in [&rotated, &path] {
            verifier.read(&path.display().to_string(), &mut BufReader::new(File::open(path).unwrap())).unwrap();
        }
        let report = verifier.finish();
        assert!(report.ok && report.notes.is_empty(), "{report:?}");
        assert_eq!(report.head.unwrap().seq, 13, "{report:?}");
    }

    /// Several keepers write while the file is renamed again and again, and all lines are in one chain.
    #[test]
    fn keepers_that_share_a_file_follow_a_rotation() {
        const KEEPERS: usize = 3;
        const ROTATIONS: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let rotated = |number| folder.path().join(format!("audit.jsonl.{number}"));
        let round = Barrier::new(KEEPERS + 1);
        thread::scope(|scope| {
            for keeper in 0..KEEPERS {
                let (path, round) = (&path, &round);
                scope.spawn(move || {
                    let file = ChainedFile::open(path).unwrap();
                    for _ in 0..ROTATIONS {
                        round.wait();
                        // One keeper is started anew, perhaps before the others notice that the file was renamed.
                        let new = ChainedFile::open(path).unwrap();
                        let file = if keeper == 0 { &new } else { &file };
                        for line in 0..40 {
                            let line = format!("{{\"keeper\":{keeper},\"line\":{line}}}\n");
                            file.append(line.as_bytes()).unwrap();
                            if line.len() % 7 == keeper {
                                file.reopen().unwrap();
                            }
                        }
                        round.wait();
                        file.reopen().unwrap();
                    }
                });
            }
            for number in 0..ROTATIONS {
                round.wait();
                // Empty files are not rotated (`notifempty` in packaging/logrotate).
                while fs::metadata(&path).unwrap().len() == 0 {
                    thread::yield_now();
                }
                fs::rename(&path, rotated(number)).unwrap();
                round.wait();
            }
        });
        let mut verifier = AuditVerifier::new([]);
        for path in (0..ROTATIONS).map(rotated).chain([path.clone()]) {
            verifier.read(&path.display().to_string(), &mut BufReader::new(File::open(path).unwrap())).unwrap();
        }
        let report = verifier.finish();
        assert!(report.ok && report.notes.is_empty(), "{report:?}");
        // Each rotated file ends with a line.
        assert_eq!(report.head.unwrap().seq as usize, ROTATIONS * (KEEPERS * 40 + 1), "{report:?}");
        assert_eq!(audit_files(&path).len(), ROTATIONS + 1);
    }
}
