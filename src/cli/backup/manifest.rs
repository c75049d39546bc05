//! What is in a backup: manifest.json.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cli::failure::Failure;

const NAME: &str = "manifest.json";
/// The form of a backup.
const FORM: u32 = 1;

/// What made it, when, and what it has.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    form: u32,
    /// The release that made it.
    claviger: String,
    /// When, as RFC 3339 has it.
    pub time: String,
    pub files: Vec<Entry>,
}

/// A file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    path: String,
    bytes: u64,
    sha256: String,
}

impl Manifest {
    /// Of what is in a folder.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Ok(Self { form: FORM, claviger: env!("CARGO_PKG_VERSION").to_owned(), time, files: entries(folder)? })
    }

    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = File::create_new(folder.join(NAME))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()
    }

    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(NAME);
        let text = fs::read(&path).map_err(|error| {
            Failure::io(path.display(), &error).hint("it is no folder that `claviger backup` made, or not all of it")
        })?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| Failure::new("backup-damaged", format!("{}: {error}", path.display())))?;
        if manifest.form != FORM {
            let said = format!("{} is of form {}, and this release knows {FORM}", path.display(), manifest.form);
            return Err(Failure::new("backup-damaged", said)
                .hint(format!("claviger {} made it, and reads it", manifest.claviger)));
        }
        Ok(manifest)
    }

    /// Whether a folder has these files, and no other.
    pub fn check(&self, folder: &Path) -> Result<(), Failure> {
        let found = entries(folder).map_err(|error| Failure::io(folder.display(), &error))?;
        let damaged = |path: &str, what: &str| {
            Err(Failure::new("backup-damaged", format!("{}: {what}", folder.join(path).display()))
                .hint("nothing was restored; take another backup"))
        };
        for wanted in &self.files {
            match found.iter().find(|entry| entry.path == wanted.path) {
                None => return damaged(&wanted.path, "it is missing"),
                Some(entry) if entry != wanted => return damaged(&wanted.path, "it is not what was written there"),
                Some(_) => {}
            }
        }
        match found.iter().find(|entry| !self.files.iter().any(|wanted| wanted.path == entry.path)) {
            Some(more) => damaged(&more.path, "it is not of the backup"),
            None => Ok(()),
        }
    }
}

/// The files of a folder and of those in it, by name.
fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    collect(folder, "", &mut entries)?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn collect(folder: &Path, prefix: &str, entries: &mut Vec<Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| io::Error::other(format!("the name {name:?}")))?;
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), entries)?;
        } else if path != NAME {
            entries.push(of_file(&entry.path(), path)?);
        }
    }
    Ok(())
}

fn of_file(file: &Path, path: String) -> io::Result<Entry> {
    let mut hash = Hasher(Sha256::new());
    let bytes = io::copy(&mut File::open(file)?, &mut hash)?;
    let sha256 = hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Entry { path, bytes, sha256 })
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
