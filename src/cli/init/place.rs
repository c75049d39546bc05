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
    made: Vec<Made>,
}

struct Made {
    path: PathBuf,
    /// Whether all that is in it goes along.
    throw_away: bool,
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
        place.make_folder(folder, 0o755, false)?;
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

    /// Makes a folder, with those above it. With `throw_away` they have nothing to do with a token that there was before.
    pub fn make_folder(&mut self, folder: &Path, mode: u32, throw_away: bool) -> Result<(), Failure> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
        for folder in missing.into_iter().rev() {
            let made = DirBuilder::new().mode(mode).create(folder);
            made.map_err(|error| Failure::io(folder.display(), &error))?;
            self.made.push(Made { path: folder.to_owned(), throw_away });
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
        self.made.push(Made { path: path.to_owned(), throw_away: false });
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
        for Made { path, throw_away } in self.made.iter().rev() {
            let gone = match path.is_dir() {
                false => fs::remove_file(path),
                true if *throw_away => fs::remove_dir_all(path),
                // What the guard of a real token's PIN knows is not forgotten: it would be tried again.
                true => match fs::remove_dir(path) {
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                    gone => gone,
                },
            };
            if let Err(error) = gone {
                tracing::warn!(path = %path.display(), %error, "it stays behind");
            }
        }
    }
}
