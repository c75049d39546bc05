//! The folder that is filled: what was written is taken away again if nothing comes of it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::cli::failure::Failure;

/// The folder of the configuration.
pub struct Place {
    folder: PathBuf,
    /// What is taken away again, the last first.
    made: Vec<PathBuf>,
}

impl Place {
    /// A folder that has no configuration and no token of ours yet; it is made if it is not there.
    pub fn take(folder: &Path) -> Result<Self, Failure> {
        let mut place = Self { folder: folder.to_owned(), made: Vec::new() };
        let file = place.configuration();
        if file.symlink_metadata().is_ok() {
            return Err(Failure::new("config-there", format!("{} is there already", file.display()))
                .hint("`claviger did create` makes one more DID with it; another folder can have another agent"));
        }
        place.make_folder(&place.folder.clone(), 0o755)?;
        Ok(place)
    }

    /// claviger.toml.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("claviger.toml")
    }

    /// What `state_dir` of the template names.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Makes a folder, with those above it.
    pub fn make_folder(&mut self, folder: &Path, mode: u32) -> Result<(), Failure> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
        for folder in missing.into_iter().rev() {
            let made = DirBuilder::new().mode(mode).create(folder);
            made.map_err(|error| Failure::io(folder.display(), &error))?;
            self.made.push(folder.to_owned());
        }
        Ok(())
    }

    /// Writes a file that is not there yet.
    pub fn write(&mut self, path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Failure::io(path.display(), &error))?;
        self.made.push(path.to_owned());
        Ok(())
    }

    pub fn write_configuration(&mut self, text: &str) -> Result<PathBuf, Failure> {
        let file = self.configuration();
        self.write(&file, 0o644, text)?;
        Ok(file)
    }

    /// All of it stays.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // A folder of ours has only what we and our keeper wrote.
            let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            if let Err(error) = gone {
                tracing::warn!(path = %path.display(), %error, "it stays behind");
            }
        }
    }
}
