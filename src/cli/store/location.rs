//! Which store a command works on.

use std::path::Path;

use claviger::agent::store::StoreLocation;

use crate::cli::{config::Config, failure::Failure};

/// What a connection to PostgreSQL needs beside its URL.
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "only PostgreSQL has connections"))]
pub struct Connection<'a> {
    pub password_file: Option<&'a Path>,
    pub ca: Option<&'a Path>,
}

/// Returns the store with this path or URL, or the configured one.
pub fn find(named: Option<&str>, connection: &Connection<'_>, config: &Config) -> Result<StoreLocation, Failure> {
    match named {
        None => Ok(StoreLocation::Sqlite(config.store_path())),
        Some(url) if ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) => {
            in_postgres(url, connection)
        }
        Some(other) if other.contains("://") => {
            let message = "a store is the path of a file, or a URL that begins with postgres://";
            Err(Failure::usage("bad-arguments", message))
        }
        Some(path) => Ok(StoreLocation::Sqlite(path.into())),
    }
}

#[cfg(not(feature = "postgres"))]
fn in_postgres(_: &str, _: &Connection<'_>) -> Result<StoreLocation, Failure> {
    Err(Failure::usage("bad-arguments", "this program was built without PostgreSQL")
        .hint("build it with the feature `postgres`"))
}

#[cfg(feature = "postgres")]
fn in_postgres(url: &str, connection: &Connection<'_>) -> Result<StoreLocation, Failure> {
    use claviger::{agent::store::PostgresOptions, net::client_config};
    let tls = client_config(connection.ca).map_err(|error| Failure::usage("bad-certificate", error.to_string()))?;
    let wrong = |error: claviger::agent::store::StoreError| Failure::usage("bad-arguments", error.to_string());
    let options = PostgresOptions::from_url(url, &tls).map_err(wrong)?;
    Ok(StoreLocation::Postgres(Box::new(match connection.password_file {
        Some(file) => options.with_password(password(file)?.as_bytes()),
        None => options,
    })))
}

/// Reads a password: the first line of a file that only its owner may read.
#[cfg(feature = "postgres")]
fn password(file: &Path) -> Result<zeroize::Zeroizing<String>, Failure> {
    use std::{fs, os::unix::fs::MetadataExt};
    let failed = |error: std::io::Error| Failure::io(file.display(), &error);
    if fs::metadata(file).map_err(failed)?.mode() & 0o077 != 0 {
        let message = format!("{}: others may read the file", file.display());
        return Err(Failure::new("io", message).hint("chmod 600"));
    }
    let text = zeroize::Zeroizing::new(fs::read_to_string(file).map_err(failed)?);
    Ok(zeroize::Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}
