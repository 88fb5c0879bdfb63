//! `client:add` and `client:remove`: the apps of a configuration file.
//!
//! Only `clients` is touched, in the file that was named. The old commands wrote another file than
//! they read, lost the keys they did not know, and wrote the environment's passwords into it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::{FileOptions, files, say};
use crate::config::edit::{self, Added, Client};
use crate::config::{Config, ConfigError};
use crate::protocol::signature;

/// A configuration file longer than this is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Adds a client, or gives one that is there another key.
///
/// # Errors
/// The file cannot be read, understood or written, or the id cannot be one.
pub fn add(id: Option<&str>, options: &FileOptions) -> anyhow::Result<()> {
    let (path, text) = read(options)?;
    let id = match id {
        Some(id) => id.to_owned(),
        None => random_hex(8)?,
    };
    ensure!(!id.is_empty(), "The id of a client must not be empty.");
    let (key, secret) = (random_hex(16)?, random_hex(16)?);
    let client = Client { id: &id, key: &key, secret: Some(&secret) };
    let (edited, added) = edit::add_client(&path, &text, client)?;
    check(&path, &text, &edited)?;
    write(&path, &edited)?;
    match added {
        Added::New => say(format_args!("API Client added!\nappId: {id}\nkey: {key}\nsecret: {secret}")),
        Added::Updated => say(format_args!("API Client updated!\nappId: {id}\nkey: {key}")),
    }
    Ok(())
}

/// Removes a client.
///
/// # Errors
/// There is none of this id, or the file cannot be read, understood or written.
pub fn remove(id: Option<&str>, options: &FileOptions) -> anyhow::Result<()> {
    let (path, text) = read(options)?;
    let Some(id) = id else { bail!("Say which client to remove: laravel-echo-server client:remove ID") };
    let Some(edited) = edit::remove_client(&path, &text, id)? else {
        bail!("There is no client with the appId {id:?} in {}.", path.display());
    };
    write(&path, &edited)?;
    say(format_args!("Client removed: {id}"));
    Ok(())
}

/// An id or key as the old server made them: so many random bytes in hex.
pub fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random)
        .map_err(|why| anyhow::anyhow!("The operating system gives no random numbers: {why}"))?;
    Ok(signature::hex(&random))
}

fn read(options: &FileOptions) -> anyhow::Result<(PathBuf, String)> {
    let path = options.path();
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|reason| match reason.kind() {
        io::ErrorKind::NotFound => {
            let path = path.display();
            anyhow::anyhow!(
                "There is no file {path}. laravel-echo-server init makes one; --dir and --config say where it is."
            )
        }
        _ => anyhow::anyhow!("{} cannot be read: {reason}.", path.display()),
    })?;
    ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, ConfigError::TooLong { path, max_bytes: FILE_BYTES_MAX });
    let text =
        String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{} is not UTF-8. Save it as UTF-8.", path.display()))?;
    // An editor's byte order mark is no loss.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok((path, text))
}

/// A file that was right stays so: an id with a slash, for instance, could never be used.
fn check(path: &Path, before: &str, after: &str) -> anyhow::Result<()> {
    let parse = |text: &str| Config::parse(path, text.as_bytes(), &|_| None);
    if parse(before).is_ok() {
        parse(after).context("Nothing was changed, since the server would not start with this client")?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    files::replace(path, text, 0o600).with_context(|| format!("{} cannot be written", path.display()))
}
