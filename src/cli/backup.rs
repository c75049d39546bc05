//! `claviger backup` and `claviger restore`: the store, our documents and long forms, in a folder that a person can read.

mod manifest;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde_json::json;

use claviger::agent::store::{self, StoreError};

use super::{
    config::Config,
    failure::Failure,
    output::{Out, Progress, count},
};
use manifest::Manifest;

/// Copies the store and the documents of our DIDs to a new folder, also while the agent runs.
///
/// Not in it: keys, PINs, the configuration. What is sealed in the store opens only with the keys of the tokens.
#[derive(clap::Args)]
pub struct BackupArgs {
    /// The folder, which is made
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
}

/// Puts a backup in the place of what is there, while no agent runs. What was there stays beside it.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// A folder that `claviger backup` made
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
}

/// The database in a backup.
const STORE: &str = "agent.db";
/// Folders of the state folder that belong into it.
const FOLDERS: [&str; 2] = ["documents", "long-forms"];

pub fn backup(args: &BackupArgs, config: &Config, out: &Out) -> Result<(), Failure> {
    let database = config.store_path();
    if !database.exists() {
        return Err(Failure::new("store-unusable", format!("there is no store at {} yet", database.display()))
            .hint("`claviger serve` makes it"));
    }
    let failed = |error: io::Error| Failure::io(args.to.display(), &error);
    if args.to.symlink_metadata().is_ok() {
        return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)).hint("a backup wants a folder of its own"));
    }
    // Made beside it under another name, so that a folder of that name is whole.
    let parent = parent(&args.to);
    let partial = tempfile::Builder::new().prefix(".claviger-backup-").tempdir_in(parent).map_err(failed)?;
    let progress = Progress::new(out);
    // The documents first: a DID that is made meanwhile is missing, and no message refers to what is not there.
    for folder in FOLDERS {
        copy_folder(&config.state_dir.join(folder), &partial.path().join(folder)).map_err(failed)?;
    }
    store::backup(&database, &partial.path().join(STORE), |done, all| {
        progress.tell(&format!("Copying the store: {done} of {all} pages"));
    })?;
    progress.tell("Reading the copy again");
    let manifest = Manifest::of(partial.path()).map_err(failed)?;
    manifest.write(partial.path()).map_err(failed)?;
    File::open(partial.path()).and_then(|folder| folder.sync_all()).map_err(failed)?;
    fs::rename(partial.path(), &args.to).map_err(failed)?;
    // It has its name now.
    let _ = partial.keep();
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
    drop(progress);
    if out.json {
        return out.document(&json!({ "folder": args.to, "time": manifest.time, "files": manifest.files }));
    }
    out.say(&format!("{} in {}.", count(manifest.files.len(), "file"), args.to.display()));
    out.say("The keys are not in it: what is sealed in the store opens only with the same tokens.");
    Ok(())
}

pub fn restore(args: &RestoreArgs, config: &Config, out: &Out) -> Result<(), Failure> {
    let manifest = Manifest::read(&args.from)?;
    let progress = Progress::new(out);
    progress.tell("Looking at the backup");
    manifest.check(&args.from)?;
    let database = config.store_path();
    let failed = |error: io::Error| Failure::io(config.state_dir.display(), &error);
    make_private(parent(&database)).map_err(failed)?;
    progress.tell("Copying the store");
    // First, as it fails if an agent runs: then nothing is changed.
    let mut kept: Vec<PathBuf> = put_back(&args.from.join(STORE), &database)?.into_iter().collect();
    for folder in FOLDERS {
        let target = config.state_dir.join(folder);
        let new = target.with_extension("restored");
        if new.exists() {
            // Of a restore that was cut off.
            fs::remove_dir_all(&new).map_err(failed)?;
        }
        if !copy_folder(&args.from.join(folder), &new).map_err(failed)? {
            continue;
        }
        if target.exists() {
            let old = beside(&target);
            fs::rename(&target, &old).map_err(failed)?;
            kept.push(old);
        }
        fs::rename(&new, &target).map_err(failed)?;
    }
    File::open(&config.state_dir).and_then(|folder| folder.sync_all()).map_err(failed)?;
    drop(progress);
    if out.json {
        return out.document(&json!({ "time": manifest.time, "store": database, "kept": kept }));
    }
    out.say(&format!("The state of {} is back.", manifest.time));
    for old in &kept {
        out.say(&format!("What was there is in {}.", old.display()));
    }
    Ok(())
}

/// Puts the copy of a store in its place. What was there is kept beside it, under the name that is returned.
fn put_back(copy: &Path, database: &Path) -> Result<Option<PathBuf>, StoreError> {
    let old = database.exists().then(|| beside(database));
    if let Some(old) = &old {
        match store::backup(database, old, |_, _| ()) {
            // It may be why there is a restore: its file is kept as it is.
            Err(StoreError::Unusable(_)) => {
                fs::copy(database, old).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            }
            kept => kept?,
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

/// Copies the files of a folder, if it is there.
fn copy_folder(from: &Path, to: &Path) -> io::Result<bool> {
    if !from.is_dir() {
        return Ok(false);
    }
    make_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // A file that is just being written has another name then.
        if !entry.file_type()?.is_file() || entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let copy = to.join(entry.file_name());
        match fs::copy(entry.path(), &copy) {
            Ok(_) => File::open(&copy)?.sync_all()?,
            // Long forms come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    File::open(to)?.sync_all()?;
    Ok(true)
}

fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name that is free.
fn beside(path: &Path) -> PathBuf {
    let names = (1..).map(|number| path.with_extension(format!("before-{number}")));
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| path.with_extension("before"))
}
