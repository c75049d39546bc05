//! The manifest of a backup: manifest.json.

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
/// The format of a backup.
const FORMAT: u32 = 1;

/// The release that made the backup, the time, and the files.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    #[serde(rename = "form")]
    format: u32,
    /// The release that made the backup.
    claviger: String,
    /// The time of the backup, as in RFC 3339.
    pub time: String,
    pub files: Vec<Entry>,
}

/// A file of the backup.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    path: String,
    bytes: u64,
    sha256: String,
}

impl Manifest {
    /// The manifest of the files in a folder.
    pub fn of_folder(folder: &Path) -> io::Result<Self> {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Ok(Self { format: FORMAT, claviger: env!("CARGO_PKG_VERSION").to_owned(), time, files: entries(folder)? })
    }

    /// Writes the manifest to a folder.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = File::create_new(folder.join(NAME))?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.sync_all()
    }

    /// Reads the manifest of a backup. Fails if the manifest is missing or damaged, or has a format that this release
    /// does not know.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(NAME);
        let text = fs::read(&path).map_err(|error| {
            Failure::io(path.display(), &error).hint("the folder was not made by `claviger backup`, or is incomplete")
        })?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| Failure::new("backup-damaged", format!("{}: {error}", path.display())))?;
        if manifest.format != FORMAT {
            let message = format!("{} has format {}, and this release knows {FORMAT}", path.display(), manifest.format);
            return Err(Failure::new("backup-damaged", message)
                .hint(format!("claviger {} made the backup, and can restore it", manifest.claviger)));
        }
        Ok(manifest)
    }

    /// Checks that a folder has these files, unchanged, and no others.
    pub fn check(&self, folder: &Path) -> Result<(), Failure> {
        let found = entries(folder).map_err(|error| Failure::io(folder.display(), &error))?;
        let damaged = |path: &str, what: &str| {
            Err(Failure::new("backup-damaged", format!("{}: {what}", folder.join(path).display()))
                .hint("nothing was restored: use another backup"))
        };
        for wanted in &self.files {
            match found.iter().find(|entry| entry.path == wanted.path) {
                None => return damaged(&wanted.path, "the file is missing"),
                Some(entry) if entry != wanted => return damaged(&wanted.path, "the file was changed"),
                Some(_) => {}
            }
        }
        match found.iter().find(|entry| !self.files.iter().any(|wanted| wanted.path == entry.path)) {
            Some(extra) => damaged(&extra.path, "the file is not part of the backup"),
            None => Ok(()),
        }
    }
}

/// The files of a folder and its subfolders, sorted by path.
fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    collect(folder, "", &mut entries)?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

fn collect(folder: &Path, prefix: &str, entries: &mut Vec<Entry>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| io::Error::other(format!("the file name {name:?} is not UTF-8")))?;
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), entries)?;
        } else if path != NAME {
            entries.push(entry_of(&entry.path(), path)?);
        }
    }
    Ok(())
}

fn entry_of(file: &Path, path: String) -> io::Result<Entry> {
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
