//! `claviger backup` and `claviger restore`: the store, our DID documents and the long forms of did:peer:4, in one
//! folder.

mod manifest;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;

use claviger::agent::store::{self, SqliteStore, Store, StoreError, StoreLimits, StoreLocation};

use super::{
    config::Config,
    failure::Failure,
    output::{Out, Progress, count},
    private_folder,
    runtime::block_on,
    store_location,
};
use manifest::Manifest;

/// Copies the store, the documents of our DIDs and the long forms of did:peer:4 to a new folder.
///
/// The agent may run meanwhile. A store in PostgreSQL is copied to a file of SQLite. The folder has a `manifest.json`
/// with the size and the SHA-256 of each file. Keys, PINs and the configuration are not copied, and the encrypted content
/// of the store can be decrypted only with the same tokens.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"folder", "time", "files"}."#)]
pub struct BackupArgs {
    /// The folder to make
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
}

/// Restores a backup. No agent may run meanwhile.
///
/// The backup is checked first; if a file is missing or changed, nothing is restored. The present state is kept beside
/// the restored one, under another name. A database in PostgreSQL must be empty.
#[derive(clap::Args)]
#[command(after_long_help = r#"With --json: {"time", "store", "kept"}."#)]
pub struct RestoreArgs {
    /// A folder that `claviger backup` made
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
}

/// The database file in a backup.
const STORE: &str = "agent.db";
/// The folders of the state folder that a backup has.
const FOLDERS: [&str; 2] = ["documents", "long-forms"];

pub fn backup(args: &BackupArgs, config: &Config, out: &Out) -> Result<(), Failure> {
    let location = store_location::configured(config)?;
    if let StoreLocation::Sqlite(database) = &location
        && !database.exists()
    {
        return Err(Failure::new("store-unusable", format!("there is no store at {} yet", database.display()))
            .hint("`claviger serve` creates the store"));
    }
    let failed = |error: io::Error| Failure::io(args.to.display(), &error);
    if args.to.symlink_metadata().is_ok() {
        return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)).hint("name a folder that does not exist"));
    }
    // Write the backup under another name first, so that a folder with the given name is always complete.
    let parent = parent(&args.to);
    let partial = tempfile::Builder::new().prefix(".claviger-backup-").tempdir_in(parent).map_err(failed)?;
    let progress = Progress::new(out);
    // Copy the store last, so that every DID that its messages refer to was copied before.
    for folder in FOLDERS {
        copy_files(&config.state_dir.join(folder), &partial.path().join(folder)).map_err(failed)?;
    }
    back_up_store(&location, &partial.path().join(STORE), &progress)?;
    progress.show("Computing checksums");
    let manifest = Manifest::of_folder(partial.path()).map_err(failed)?;
    manifest.write(partial.path()).map_err(failed)?;
    File::open(partial.path()).and_then(|folder| folder.sync_all()).map_err(failed)?;
    fs::rename(partial.path(), &args.to).map_err(failed)?;
    // The folder was renamed, so the temporary folder must not be removed.
    let _ = partial.keep();
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
    drop(progress);
    if out.json {
        return out.document(&json!({ "folder": args.to, "time": manifest.time, "files": manifest.files }));
    }
    out.say(&format!("{} in {}.", count(manifest.files.len(), "file"), args.to.display()));
    out.say("The backup has no keys: the store's content can be decrypted only with the same tokens.");
    Ok(())
}

pub fn restore(args: &RestoreArgs, config: &Config, out: &Out) -> Result<(), Failure> {
    let manifest = Manifest::read(&args.from)?;
    let progress = Progress::new(out);
    progress.show("Checking the backup");
    manifest.check(&args.from)?;
    let location = store_location::configured(config)?;
    let failed = |error: io::Error| Failure::io(config.state_dir.display(), &error);
    progress.show("Copying the store");
    // Restore the store first: that fails if an agent runs, before anything is changed.
    let copy = args.from.join(STORE);
    let mut kept: Vec<PathBuf> = match &location {
        StoreLocation::Sqlite(database) => {
            private_folder::create(parent(database)).map_err(failed)?;
            restore_store(&copy, database)?.into_iter().collect()
        }
        _ => {
            restore_database(&copy, config, &location, &progress)?;
            Vec::new()
        }
    };
    for folder in FOLDERS {
        let target = config.state_dir.join(folder);
        let new = target.with_extension("restored");
        if new.exists() {
            // An interrupted restore has left this folder.
            fs::remove_dir_all(&new).map_err(failed)?;
        }
        if !copy_files(&args.from.join(folder), &new).map_err(failed)? {
            continue;
        }
        if target.exists() {
            let old = unused_name(&target);
            fs::rename(&target, &old).map_err(failed)?;
            kept.push(old);
        }
        fs::rename(&new, &target).map_err(failed)?;
    }
    File::open(&config.state_dir).and_then(|folder| folder.sync_all()).map_err(failed)?;
    drop(progress);
    if out.json {
        return out.document(&json!({ "time": manifest.time, "store": location.to_string(), "kept": kept }));
    }
    out.say(&format!("Restored the state of {}.", manifest.time));
    for old in &kept {
        out.say(&format!("The previous state is in {}.", old.display()));
    }
    Ok(())
}

/// Copies the state of the store at this moment to a new file.
fn back_up_store(location: &StoreLocation, to: &Path, progress: &Progress) -> Result<(), Failure> {
    let pages = |done, all| progress.show(&format!("Copying the store: {done} of {all} pages"));
    if let StoreLocation::Sqlite(database) = location {
        return Ok(store::backup(database, to, pages)?);
    }
    let scratch = scratch_beside(to)?;
    let file = scratch.path().join(STORE);
    block_on(async { Ok(store::copy_state(location, &file, |at| progress.show(&at.to_string())).await?) })?;
    Ok(store::backup(&file, to, pages)?)
}

/// Restores a database of PostgreSQL, which is empty, from a copy in SQLite.
fn restore_database(
    copy: &Path,
    config: &Config,
    location: &StoreLocation,
    progress: &Progress,
) -> Result<(), Failure> {
    private_folder::create(&config.state_dir).map_err(|error| Failure::io(config.state_dir.display(), &error))?;
    let scratch = scratch_beside(&config.state_dir.join(STORE))?;
    let file = scratch.path().join(STORE);
    // Cursors that were given out after the backup are unknown to this copy, and so to the database.
    store::restore(copy, &file, false)?;
    block_on(async {
        // A backup by an older release has an older schema.
        SqliteStore::open(&file, StoreLimits::default())?.close().await?;
        let from = StoreLocation::Sqlite(file);
        store::copy(&from, location, |at| progress.show(&at.to_string())).await?;
        Ok(())
    })
}

/// A temporary folder on the same file system.
fn scratch_beside(path: &Path) -> Result<TempDir, Failure> {
    let folder = parent(path);
    let scratch = tempfile::Builder::new().prefix(".claviger-store-").tempdir_in(folder);
    scratch.map_err(|error| Failure::io(folder.display(), &error))
}

/// Restores the store from a copy. Keeps the present store, if there is one, and returns its new path.
fn restore_store(copy: &Path, database: &Path) -> Result<Option<PathBuf>, StoreError> {
    let old = database.exists().then(|| unused_name(database));
    if let Some(old) = &old {
        match store::backup(database, old, |_, _| ()) {
            // A damaged store may be the reason for the restore: its file is kept unchanged.
            Err(StoreError::Unusable(_)) => {
                fs::copy(database, old).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            }
            copied => copied?,
        }
    }
    if let Err(error) = store::restore(copy, database, true) {
        if let Some(old) = &old {
            let _ = fs::remove_file(old);
        }
        return Err(error);
    }
    Ok(old)
}

/// Copies the files of a folder. Returns whether the folder exists.
fn copy_files(from: &Path, to: &Path) -> io::Result<bool> {
    if !from.is_dir() {
        return Ok(false);
    }
    private_folder::create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // A file whose name begins with a dot is temporary: another process is writing it.
        if !entry.file_type()?.is_file() || entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let copy = to.join(entry.file_name());
        match fs::copy(entry.path(), &copy) {
            Ok(_) => File::open(&copy)?.sync_all()?,
            // The agent may remove long forms meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    File::open(to)?.sync_all()?;
    Ok(true)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A path in the same folder at which nothing exists.
fn unused_name(path: &Path) -> PathBuf {
    let names = (1..).map(|number| path.with_extension(format!("before-{number}")));
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| path.with_extension("before"))
}
