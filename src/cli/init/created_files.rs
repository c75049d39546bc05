//! The files and folders that `claviger init` creates, and removes again if it fails.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::cli::failure::Failure;

/// The folder of the configuration, and what was created there. Dropping this deletes what was created, unless
/// [`keep`](Self::keep) is called.
pub struct CreatedFiles {
    folder: PathBuf,
    /// Whether other users get what the modes give them, whatever the umask is.
    for_other_users: bool,
    /// The created files and folders, in the order of creation. They are removed in the reverse order.
    created: Vec<Created>,
}

/// A created file or folder.
struct Created {
    path: PathBuf,
    /// For a folder: whether it is removed with everything in it.
    with_contents: bool,
}

impl CreatedFiles {
    /// Makes the folder if it does not exist. Fails if there is a configuration in it already.
    pub fn begin(folder: &Path) -> Result<Self, Failure> {
        Self::begin_with(folder, false)
    }

    /// The same, for files that other users read.
    pub fn begin_for_other_users(folder: &Path) -> Result<Self, Failure> {
        Self::begin_with(folder, true)
    }

    fn begin_with(folder: &Path, for_other_users: bool) -> Result<Self, Failure> {
        let mut files = Self { folder: folder.to_owned(), for_other_users, created: Vec::new() };
        let file = files.configuration();
        if file.symlink_metadata().is_ok() {
            return Err(Failure::new("config-there", format!("{} exists already", file.display())).hint(
                "`claviger did create` makes another DID for this agent; for another agent, name another folder",
            ));
        }
        files.make_folder(folder, 0o755, false)?;
        Ok(files)
    }

    /// The folder of the configuration.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of claviger.toml.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("claviger.toml")
    }

    /// The folder that `state_dir` of the template names.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Makes a folder, and those above it that are missing. With `with_contents`, a failed `init` removes them with
    /// everything in them.
    pub fn make_folder(&mut self, folder: &Path, mode: u32, with_contents: bool) -> Result<(), Failure> {
        let missing: Vec<&Path> =
            folder.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
        for folder in missing.into_iter().rev() {
            let created = DirBuilder::new().mode(mode).create(folder);
            created.map_err(|error| Failure::io(folder.display(), &error))?;
            self.created.push(Created { path: folder.to_owned(), with_contents });
            self.set_mode(folder, mode)?;
        }
        Ok(())
    }

    /// Writes a new file.
    pub fn write(&mut self, path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Failure::io(path.display(), &error))?;
        self.created.push(Created { path: path.to_owned(), with_contents: false });
        self.set_mode(path, mode)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), Failure> {
        match self.for_other_users {
            true => fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(|error| Failure::io(path.display(), &error)),
            false => Ok(()),
        }
    }

    /// Writes claviger.toml, and returns its path.
    pub fn write_configuration(&mut self, text: &str) -> Result<PathBuf, Failure> {
        let file = self.configuration();
        self.write(&file, 0o644, text)?;
        Ok(file)
    }

    /// Keeps everything that was created. Returns the files.
    pub fn keep(mut self) -> Vec<PathBuf> {
        let created = std::mem::take(&mut self.created);
        created.into_iter().map(|created| created.path).filter(|path| path.is_file()).collect()
    }
}

impl Drop for CreatedFiles {
    fn drop(&mut self) {
        for Created { path, with_contents } in self.created.iter().rev() {
            let removed = match path.is_dir() {
                false => fs::remove_file(path),
                true if *with_contents => fs::remove_dir_all(path),
                // A folder with other files stays: the PIN guard of an existing token must not forget a refused PIN.
                true => match fs::remove_dir(path) {
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                    removed => removed,
                },
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "cannot remove a created file");
            }
        }
    }
}
